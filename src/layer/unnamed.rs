//! What a layer selects its responses by that none of their fields says.
//!
//! # Invariants
//!
//! - A layer stores a response that one further inside has selected by such things only if it selects by the same.
//!   That one says so of what it lets through, too: the handler may be shown the same.

use http::Extensions;

use super::inputs::Inputs;
use super::lookup::Asked;
use super::target::RequestTarget;
use crate::key::Facet;

/// Such things, in the extensions of a response.
#[derive(Clone, Debug, Default)]
pub(super) struct Unnamed(Vec<Facet<'static>>);

impl Unnamed {
    /// What a layer selects a request by, if there is such a thing.
    pub(super) fn of(inputs: &Inputs, target: &RequestTarget<'_>) -> Option<Self> {
        let own = inputs.unnamed(target).cloned().map(Facet::into_owned);
        let own: Vec<_> = own.collect();
        (!own.is_empty()).then_some(Self(own))
    }

    /// Tells the layers outside of this one what it selected a response by.
    pub(super) fn say(asked: &Asked<'_>, extensions: &mut Extensions) {
        if asked.is_inside
            && let Some(own) = Self::of(&asked.config.inputs, asked.target)
        {
            own.leave(extensions);
        }
    }

    /// Tells the layers outside of the one whose it is.
    pub(super) fn leave(self, extensions: &mut Extensions) {
        extensions.get_or_insert_default::<Self>().0.extend(self.0);
    }

    /// Whether there is anything to tell them.
    pub(super) fn is_any(asked: &Asked<'_>) -> bool {
        let mut own = asked.config.inputs.unnamed(asked.target);
        asked.is_inside && own.next().is_some()
    }

    /// Whether a layer that is asked so selects by all that those inside of it have told it.
    pub(super) fn is_known(asked: &Asked<'_>, extensions: &Extensions) -> bool {
        let said = extensions.get::<Self>();
        said.is_none_or(|said| said.0.iter().all(|it| asked.target.facets.contains(it)))
    }
}
