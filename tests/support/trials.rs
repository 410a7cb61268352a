//! Tests of the binaries without the usual harness: by name, ignored where a program is missing.

use std::future::Future;
use std::pin::Pin;

use libtest_mimic::Trial;

use crate::support::servers::is_installed;

pub(crate) type Running = Pin<Box<dyn Future<Output = ()>>>;

/// A test, and the programs without which it is ignored.
pub(crate) type Test = (&'static str, &'static [&'static str], fn() -> Running);

macro_rules! tests {
    ($($group:ident needs $needs:expr => $($test:ident),+ $(,)?;)+) => {
        &[$($((
            concat!(stringify!($group), "::", stringify!($test)),
            $needs,
            || Box::pin($group::$test()),
        ),)+)+]
    };
}

pub(crate) use tests;

/// A test that `needs` these programs.
pub(crate) fn trial(
    name: impl Into<String>,
    needs: &[&str],
    test: impl FnOnce() -> Running + Send + 'static,
) -> Trial {
    let ignored = !needs.iter().all(|program| is_installed(program));
    let run = || {
        block_on(test());
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(ignored)
}

pub(crate) fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}
