//! What extra specs demand of capabilities, and the comparisons they can ask for, as Nova and Cinder read them.

use crate::placement::facts::Facts;

/// The capability that an extra spec is about; none if it is meant for somebody else. As in Nova and Cinder, that is a name
/// with a scope other than `capabilities:`.
pub(in crate::placement) fn capability(key: &str) -> Option<&str> {
    match key.split_once(':') {
        None => Some(key),
        Some(("capabilities", name)) => Some(name),
        Some(_) => None,
    }
}

/// Whether what is said of a candidate meets a demand. One that does not say is not taken at a guess.
pub(in crate::placement) fn meets(said: &Facts, name: &str, wanted: &str) -> bool {
    said.get(name).is_some_and(|own| matches(own, wanted))
}

/// Which demands are not met, and by what.
pub(super) fn missed<'a>(said: &Facts, demands: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let missed = demands.filter(|(name, wanted)| !meets(said, name, wanted));
    let missed = missed.map(|(name, wanted)| match said.get(name) {
        Some(own) => format!("{name} is {own:?}, {wanted:?} wanted"),
        None => format!("does not say {name}, {wanted:?} wanted"),
    });
    missed.collect::<Vec<_>>().join(", ")
}

/// Whether a capability's value meets a demand. The demand is a plain value, or an operator and its operand:
/// numbers with `=` (at least), `==`, `!=`, `>=`, `<=`; texts with `s==`, `s!=`, `s<`, `s<=`, `s>`, `s>=`;
/// `<in>` (contains), `<is>` (the same truth), `<or> a <or> b`.
pub(in crate::placement) fn matches(own: &str, wanted: &str) -> bool {
    let wanted = wanted.trim();
    let (operator, operand) = wanted.split_once(char::is_whitespace).unwrap_or((wanted, ""));
    let operand = operand.trim();
    let numbers = || Some((own.trim().parse::<f64>().ok()?, operand.parse::<f64>().ok()?));
    let number = |holds: fn(f64, f64) -> bool| numbers().is_some_and(|(own, operand)| holds(own, operand));
    match operator {
        "=" | ">=" => number(|own, operand| own >= operand),
        "<=" => number(|own, operand| own <= operand),
        "==" => number(|own, operand| own == operand),
        "!=" => number(|own, operand| own != operand),
        "s==" => own == operand,
        "s!=" => own != operand,
        "s<" => own < operand,
        "s<=" => own <= operand,
        "s>" => own > operand,
        "s>=" => own >= operand,
        "<in>" => own.contains(operand),
        "<is>" => is_true(own) == is_true(operand),
        "<or>" => operand.split("<or>").any(|one| one.trim() == own),
        _ => own == wanted,
    }
}

fn is_true(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "1" | "t" | "true" | "on" | "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators() {
        for (own, wanted) in [
            ("ssd", "ssd"),
            ("10", "= 10"),
            ("12", "= 10"),
            ("10", ">= 9.5"),
            ("10", "== 10.0"),
            ("10", "!= 11"),
            ("9", "<= 9"),
            ("abc", "s== abc"),
            ("abc", "s< abd"),
            ("true", "<is> True"),
            ("no", "<is> False"),
            ("iscsi,nbd", "<in> nbd"),
            ("nbd", "<or> iscsi <or> nbd"),
            ("two words", "two words"),
        ] {
            assert!(matches(own, wanted), "{own:?} meets {wanted:?}");
        }
        for (own, wanted) in [
            ("ssd", "hdd"),
            ("9", "= 10"),
            ("many", ">= 1"),
            ("false", "<is> True"),
            ("nb", "<or> iscsi <or> nbd"),
            ("", "== "),
        ] {
            assert!(!matches(own, wanted), "{own:?} does not meet {wanted:?}");
        }
    }
}
