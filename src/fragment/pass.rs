//! One pass over a template: what is known of its fragments, and what the pass finds out.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use askama::Values;
use askama::filters::HtmlSafe;

use crate::fence::Fill;
use crate::key::Key;
use crate::ttl::Ttl;

const PASS: &str = "axum_cache::fragment::pass";

/// A fragment as the template names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fragment {
    /// The alias that it names, if it does.
    pub(super) using: Option<String>,
    pub(super) key: String,
}

/// What is known of a fragment before a pass.
#[derive(Debug)]
pub(super) enum Known {
    /// Its markup, stored or captured.
    Markup(Arc<str>),
    /// It has to be rendered. `None` inside: and not to be stored, for its store failed.
    Missing(Option<(Key, Fill)>),
}

/// A fragment that was rendered and is to be stored.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) using: Option<String>,
    pub(super) key: Key,
    pub(super) fill: Fill,
    pub(super) ttl: Ttl,
    pub(super) markup: Arc<str>,
}

/// The state of a page between and during its passes.
#[derive(Debug, Default)]
pub(super) struct Pass {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Fragment, Known>,
    wanted: Vec<Fragment>,
    /// How often this pass met a fragment of which nothing is known.
    unknowns: usize,
    captured: Vec<Captured>,
}

impl Pass {
    /// The fragments that the last pass met and of which nothing is known.
    pub(super) fn take_wanted(&mut self) -> Vec<Fragment> {
        std::mem::take(&mut self.state.get_mut().wanted)
    }

    pub(super) fn take_captured(&mut self) -> Vec<Captured> {
        std::mem::take(&mut self.state.get_mut().captured)
    }

    pub(super) fn learn(&mut self, found: impl IntoIterator<Item = (Fragment, Known)>) {
        self.state.get_mut().known.extend(found);
    }

    /// The pass that a template is being rendered in, if `Cache::render` renders it.
    pub(super) fn of(values: &dyn Values) -> Option<&Self> {
        values.get_value(PASS)?.downcast_ref()
    }

    /// What a block writes into the page.
    pub(super) fn answer<B: fmt::Display>(
        &self,
        fragment: Fragment,
        ttl: Ttl,
        body: B,
    ) -> Output<B> {
        let unknowns = {
            let mut state = self.state.borrow_mut();
            match state.known.get(&fragment) {
                Some(Known::Markup(markup)) => return Output::markup(Arc::clone(markup)),
                Some(Known::Missing(_)) => state.unknowns,
                None => {
                    state.unknowns += 1;
                    if !state.wanted.contains(&fragment) {
                        state.wanted.push(fragment);
                    }
                    return Output::nothing();
                }
            }
        };
        // The body may hold other fragments, which come here while it runs.
        let mut markup = String::new();
        if write!(markup, "{body}").is_err() {
            return Output::failed();
        }
        let mut state = self.state.borrow_mut();
        if state.unknowns > unknowns {
            // Something inside is not known yet; this pass's page is not the last.
            return Output::nothing();
        }
        let markup: Arc<str> = markup.into();
        let known = Known::Markup(Arc::clone(&markup));
        if let Some(Known::Missing(Some((key, fill)))) = state.known.insert(fragment.clone(), known)
        {
            state.captured.push(Captured {
                using: fragment.using,
                key,
                fill,
                ttl,
                markup: Arc::clone(&markup),
            });
        }
        Output::markup(markup)
    }
}

/// The values of a template under `Cache::render`: the pass, and the caller's own.
pub(super) struct Env<'a> {
    pub(super) pass: &'a Pass,
    pub(super) values: &'a dyn Values,
}

impl Values for Env<'_> {
    fn get_value<'a>(&'a self, key: &str) -> Option<&'a dyn Any> {
        if key == PASS {
            Some(self.pass)
        } else {
            self.values.get_value(key)
        }
    }
}

/// What a `cache` block writes: markup that its own template has escaped already.
#[derive(Debug)]
pub struct Output<B> {
    content: Content<B>,
}

#[derive(Debug)]
enum Content<B> {
    Nothing,
    Markup(Arc<str>),
    Live(B),
    Failed,
}

impl<B> Output<B> {
    /// The body itself, run as it is written.
    pub(super) fn live(body: B) -> Self {
        Self {
            content: Content::Live(body),
        }
    }

    fn nothing() -> Self {
        Self {
            content: Content::Nothing,
        }
    }

    fn markup(markup: Arc<str>) -> Self {
        Self {
            content: Content::Markup(markup),
        }
    }

    fn failed() -> Self {
        Self {
            content: Content::Failed,
        }
    }
}

impl<B: fmt::Display> fmt::Display for Output<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Nothing => Ok(()),
            Content::Markup(markup) => f.write_str(markup),
            Content::Live(body) => body.fmt(f),
            // The block has kept the cause, and gives it back when writing fails.
            Content::Failed => Err(fmt::Error),
        }
    }
}

/// The body of a filter block has been escaped by its template; see
/// [`FragmentBody`](super::FragmentBody) for why nothing else comes here.
impl<B: fmt::Display> HtmlSafe for Output<B> {}
