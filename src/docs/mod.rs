//! The manual: a guide, a table for those who come from Django, the architecture, the changelog.

#[doc = include_str!("guide.md")]
pub mod guide {}

#[doc = include_str!("django.md")]
pub mod django {}

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("changelog.md")]
pub mod changelog {}
