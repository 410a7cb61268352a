//! The service inside of a layer, which need not be ready for what is stored.
//!
//! # Invariants
//!
//! - It is called only once it has said that it is ready, and that one which has said so.
//! - Whether it is ready, or has failed, concerns those requests only that come to it.

use std::any::Any;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tower_service::Service;

#[derive(Debug)]
pub(super) struct Callee<S> {
    service: S,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It is not ready, or has not been asked.
    Unknown,
    Ready,
    /// With this error of its own.
    Failed(Mutex<Box<dyn Any + Send>>),
}

/// The other one has to be ready by itself:
/// <https://docs.rs/tower/latest/tower/trait.Service.html#be-careful-when-cloning-inner-services>
impl<S: Clone> Clone for Callee<S> {
    fn clone(&self) -> Self {
        Self::new(self.service.clone())
    }
}

impl<S> Callee<S> {
    pub(super) fn new(service: S) -> Self {
        Self {
            service,
            state: State::Unknown,
        }
    }

    /// Asks whether it is ready.
    pub(super) fn ask<R>(&mut self, cx: &mut Context<'_>)
    where
        S: Service<R>,
        S::Error: Send + 'static,
    {
        self.state = match self.service.poll_ready(cx) {
            Poll::Ready(Ok(())) => State::Ready,
            Poll::Ready(Err(error)) => State::Failed(Mutex::new(Box::new(error))),
            Poll::Pending => State::Unknown,
        };
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// The answer of one that [is ready](Self::is_ready).
    pub(super) fn call_now<R>(&mut self, request: R) -> S::Future
    where
        S: Service<R>,
    {
        self.state = State::Unknown;
        self.service.call(request)
    }

    /// The one that was asked, of which a clone is left.
    pub(super) fn take(&mut self) -> Self
    where
        S: Clone,
    {
        let next = self.clone();
        std::mem::replace(self, next)
    }

    /// Its answer once it is ready.
    ///
    /// # Errors
    ///
    /// Its own, also that of getting ready.
    pub(super) async fn call<R>(mut self, request: R) -> Result<S::Response, S::Error>
    where
        S: Service<R>,
        S::Error: 'static,
    {
        match self.state {
            State::Ready => {}
            State::Unknown => poll_fn(|cx| self.service.poll_ready(cx)).await?,
            State::Failed(error) => {
                let error = error.into_inner().unwrap_or_else(PoisonError::into_inner);
                if let Ok(error) = error.downcast() {
                    return Err(*error);
                }
            }
        }
        self.service.call(request).await
    }
}
