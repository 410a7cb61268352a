//! What a layer selects its responses by that none of their fields says.
//!
//! # Invariants
//!
//! - A layer stores a response that one further inside has selected by such things only if it selects by the same.

use http::Extensions;

use super::lookup::Asked;
use crate::key::Facet;

/// Such things, in the extensions of a response.
#[derive(Clone, Debug, Default)]
pub(super) struct Unnamed(Vec<Facet<'static>>);

impl Unnamed {
    /// Tells the layers outside of this one what it selected a response by.
    pub(super) fn say(asked: &Asked<'_>, extensions: &mut Extensions) {
        if Self::is_any(asked) {
            let all = extensions.get_or_insert_default::<Self>();
            let own = asked.config.inputs.unnamed(asked.target).cloned();
            all.0.extend(own.map(Facet::into_owned));
        }
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
