//! docs/conformance.md says what is true: every behaviour has a line, and every test it names exists.

use std::collections::BTreeSet;
use std::path::Path;

const BEHAVIOURS: usize = 60;
const MODULES: [&str; 10] = [
    "routing",
    "timeouts",
    "liveness",
    "delivery",
    "durability",
    "replies",
    "versioning",
    "errors",
    "lifecycle",
    "failover",
];

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of the table's rows that begin with a number.
fn rows(document: &str) -> Vec<(usize, Vec<&str>)> {
    document.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<(usize, Vec<&str>)> {
    let cells: Vec<_> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
    Some((cells[0].parse().ok()?, cells))
}

/// The names of tests in a cell: `module::name` between backticks.
fn tests_in(cell: &str) -> impl Iterator<Item = (&str, &str)> {
    cell.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::"))
}

#[test]
fn the_document_names_every_behaviour_and_only_tests_that_exist() {
    let document = read("docs/conformance.md");
    let rows = rows(&document);
    let numbers: Vec<_> = rows.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=BEHAVIOURS).collect::<Vec<_>>());
    let mut named = BTreeSet::new();
    for (number, cells) in &rows {
        assert_eq!(cells.len(), 4, "row {number}: number, behaviour, where");
        let tests: Vec<_> = tests_in(cells[2]).collect();
        assert!(!tests.is_empty() || cells[2].starts_with("Not "), "row {number}: no test and no reason");
        for (module, test) in tests {
            let source = read(&format!("tests/conformance/{module}.rs"));
            assert!(
                source.contains(&format!("async fn {test}(")),
                "row {number}: there is no {module}::{test}"
            );
            assert!(source.contains(&format!("    {test},")), "row {number}: {module}::{test} is not run");
            named.insert(format!("{module}::{test}"));
        }
    }
    for module in MODULES {
        let source = read(&format!("tests/conformance/{module}.rs"));
        let list = source.split_once("over_both_stores!(").unwrap().1.split_once(");").unwrap().0;
        for test in list.split(',').map(str::trim).filter(|test| !test.is_empty()) {
            assert!(named.contains(&format!("{module}::{test}")), "{module}::{test} is in no row");
        }
    }
}
