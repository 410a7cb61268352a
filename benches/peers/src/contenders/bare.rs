//! No cache: a router, a route, a handler that has its response at hand.

use super::{Contender, contender, router};
use crate::scene::{Scene, Site};

pub fn site(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    contender(router(Site::new(scene, body)))
}
