//! What a host is, in words: its architecture, its hypervisor, whatever its driver says of it. Many hosts are the same, so each
//! set of facts is kept once, and a decision judges each set once.

use std::collections::BTreeMap;

use kilonova_proto::types::v1::ComputeResources;

/// What is said of a host, by name.
pub type Facts = BTreeMap<String, String>;

/// The CPU architecture, in its usual spelling.
pub const ARCHITECTURE: &str = "cpu_arch";
/// The hypervisor.
pub const HYPERVISOR_TYPE: &str = "hypervisor_type";
/// Its version.
pub const HYPERVISOR_VERSION: &str = "hypervisor_version";
/// The machine types it offers, separated by commas.
pub const MACHINE_TYPES: &str = "machine_types";

/// What a host published of itself.
#[must_use]
pub fn facts(resources: &ComputeResources) -> Facts {
    let mut facts: Facts = resources.capabilities.clone().into_iter().collect();
    let mut say = |name: &str, value: String| {
        if !value.is_empty() {
            facts.insert(name.to_owned(), value);
        }
    };
    say(ARCHITECTURE, canonical_architecture(&resources.cpu_architecture));
    say(HYPERVISOR_TYPE, resources.hypervisor_type.clone());
    say(HYPERVISOR_VERSION, resources.hypervisor_version.clone());
    say(MACHINE_TYPES, resources.machine_types.join(","));
    facts
}

/// The spelling the Linux kernel uses, as Nova canonicalises it.
#[must_use]
pub fn canonical_architecture(text: &str) -> String {
    let text = text.trim().to_ascii_lowercase();
    match text.as_str() {
        "amd64" => "x86_64".to_owned(),
        "arm64" => "aarch64".to_owned(),
        "i386" | "i486" | "i586" => "i686".to_owned(),
        _ => text,
    }
}

/// A version as one number that grows with it, as Nova writes it: 7.2.1 is 7002001.
#[must_use]
pub fn version_number(version: &str) -> i32 {
    let part = |text: &str| {
        let digits = text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse::<i32>().unwrap_or_default().min(999)
    };
    let parts = version.split('.').map(part).chain(std::iter::repeat(0)).take(3);
    parts.fold(0, |number, part| number * 1_000 + part)
}

/// Whether a version is within bounds such as `>=6.2, <8`. Bounds that cannot be read hold for none.
#[must_use]
pub fn version_meets(version: &str, bounds: &str) -> bool {
    bounds.split(',').map(str::trim).filter(|bound| !bound.is_empty()).all(|bound| {
        let operand = bound.trim_start_matches(['<', '>', '=', '!']);
        let operator = &bound[..bound.len() - operand.len()];
        let (own, wanted) = (version_number(version), version_number(operand.trim()));
        match operator {
            ">=" => own >= wanted,
            ">" => own > wanted,
            "<=" => own <= wanted,
            "<" => own < wanted,
            "!=" => own != wanted,
            "=" | "==" | "" => own == wanted,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_one_spelling() {
        for (given, expected) in
            [("AMD64", "x86_64"), ("arm64", "aarch64"), ("i586", "i686"), ("riscv64", "riscv64")]
        {
            assert_eq!(canonical_architecture(given), expected);
        }
    }

    #[test]
    fn versions_compare_part_by_part() {
        assert!(version_number("10.0.0") > version_number("9.9.9"));
        assert_eq!(version_number("7.2"), version_number("7.2.0-1ubuntu"));
        assert_eq!(version_number("7.2.1"), 7_002_001);
        for bounds in ["", ">=6.2", ">=6.2, <8", "7.2", "==7.2.0", "!=7.1", ">7.1.9", "<=7.2"] {
            assert!(version_meets("7.2.0", bounds), "{bounds}");
        }
        for bounds in [">=8", "<7.2", ">=6, <7", "7.1", "!=7.2", "=>7", "~7"] {
            assert!(!version_meets("7.2.0", bounds), "{bounds}");
        }
    }
}
