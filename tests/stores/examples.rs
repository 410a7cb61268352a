//! The examples of the stores do what they say.

use std::process::Command;

use crate::docsite::build_examples;
use crate::services::Store;

/// Two runs count two visits.
pub(crate) fn counts_visits(store: &'static Store) {
    let service = (store.start)();
    let url = service.url();
    let (example, argument) = match store.name {
        "file" => ("files", url.trim_start_matches("file://")),
        // Examples make their table themselves.
        name => (name, url.split('?').next().unwrap()),
    };
    let folder = build_examples();
    for visit in 1..=2 {
        let output = Command::new(folder.join(example))
            .arg(argument)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("visit {visit}\n")
        );
    }
}
