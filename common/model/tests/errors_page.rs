//! `docs/errors.md` says what the code says. To write it anew: `KILONOVA_UPDATE=1 cargo test -p kilonova-model`.

use std::fmt::Write;
use std::path::Path;

use kilonova_model::Reason;

const HEAD: &str = "# Errors

Every error of Kilonova is a gRPC status with a `google.rpc.ErrorInfo` in its details: `domain` is `kilonova`, `reason` is
one of those below, and `metadata` holds the figures and names of the message. The texts may change; reasons, their codes and
what they ask of the caller do not. With `VALIDATION_FAILED` comes a `google.rpc.BadRequest` that names every wrong
field, and where it can be said when to try again, a `google.rpc.RetryInfo`. A resource that failed keeps its reason in
`fault`, and that of each earlier attempt in `failed_attempts`.

What the code alone says:

- `UNAVAILABLE`, `RESOURCE_EXHAUSTED`: **nothing happened**. Safe to send again, also elsewhere; a quota will not change by itself.
- `UNKNOWN`, `DEADLINE_EXCEEDED`, `INTERNAL`: **it may have happened**. Send it again with the same `request_id`, or read first.
- every other code: **refused**. The same request gets the same answer until something changes.

`kilonova` prints the reason, the message and the advice of this table; `grpcurl` decodes the details by reflection.

";

#[test]
fn the_page_says_what_the_code_says() {
    let mut page = HEAD.to_owned();
    page.push_str("| reason | gRPC code | what it means | what to do |\n|---|---|---|---|\n");
    for reason in Reason::ALL {
        writeln!(
            page,
            "| `{reason}` | `{}` | {} | {} |",
            reason.code().as_str(),
            reason.meaning().trim_end_matches('.'),
            reason.advice()
        )
        .unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    if std::env::var_os("KILONOVA_UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/errors.md is old: KILONOVA_UPDATE=1 cargo test -p kilonova-model");
}
