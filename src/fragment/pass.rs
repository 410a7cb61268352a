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
use crate::tag::{TagStamp, Tags};
use crate::ttl::Ttl;

const PASS: &str = "axum_cache::fragment::pass";

/// A fragment as the template names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fragment {
    /// The alias that it names, if it does.
    pub(super) using: Option<String>,
    pub(super) key: String,
    pub(super) tags: Tags,
}

/// What is known of a fragment before a pass.
#[derive(Debug)]
pub(super) enum Known {
    /// Its markup, stored or captured, and its tags.
    Markup(Arc<str>, Arc<[TagStamp]>),
    /// It has to be rendered. `None` inside: and not to be stored, for its store failed.
    Missing(Option<Missing>),
}

/// A fragment that is to be stored once it is rendered.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) key: Key,
    pub(super) fill: Fill,
    /// What its tags were before it was rendered.
    pub(super) tags: Vec<TagStamp>,
}

/// A fragment that was rendered and is to be stored.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) using: Option<String>,
    pub(super) key: Key,
    pub(super) fill: Fill,
    pub(super) ttl: Ttl,
    /// Its own, and those of the fragments inside.
    pub(super) tags: Arc<[TagStamp]>,
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
    /// The tags of what is inside each body that is running, the outermost first; and before them
    /// those of the page.
    inside: Vec<Vec<TagStamp>>,
}

impl State {
    /// Something with these tags stands in the page, or in the body that is running.
    fn holds(&mut self, tags: &[TagStamp]) {
        if self.inside.is_empty() {
            self.inside.push(Vec::new());
        }
        if let Some(inside) = self.inside.last_mut() {
            for tag in tags {
                if !inside.contains(tag) {
                    inside.push(tag.clone());
                }
            }
        }
    }
}

impl Pass {
    /// The tags of all fragments that the last pass met.
    pub(super) fn take_tags(&mut self) -> Tags {
        let inside = std::mem::take(&mut self.state.get_mut().inside);
        inside.iter().flatten().map(|tag| &tag.name).collect()
    }

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
                Some(Known::Markup(markup, tags)) => {
                    let (markup, tags) = (Arc::clone(markup), Arc::clone(tags));
                    state.holds(&tags);
                    return Output::markup(markup);
                }
                Some(Known::Missing(_)) => {
                    state.holds(&[]);
                    state.inside.push(Vec::new());
                    state.unknowns
                }
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
        let written = write!(markup, "{body}");
        let mut state = self.state.borrow_mut();
        let mut tags = state.inside.pop().unwrap_or_default();
        if written.is_err() {
            return Output::failed();
        }
        if state.unknowns > unknowns {
            // Something inside is not known yet; this pass's page is not the last.
            return Output::nothing();
        }
        let markup: Arc<str> = markup.into();
        let missing = match state.known.get_mut(&fragment) {
            Some(Known::Missing(missing)) => missing.take(),
            _ => None,
        };
        if let Some(missing) = &missing {
            tags.extend(missing.tags.iter().cloned());
        }
        let tags: Arc<[TagStamp]> = tags.into();
        state.holds(&tags);
        let known = Known::Markup(Arc::clone(&markup), Arc::clone(&tags));
        state.known.insert(fragment.clone(), known);
        if let Some(missing) = missing {
            state.captured.push(Captured {
                using: fragment.using,
                key: missing.key,
                fill: missing.fill,
                ttl,
                tags,
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
