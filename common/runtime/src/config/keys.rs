//! Which keys exist, and which one was probably meant.

use figment::value::{Dict, Value};

/// The value at `path`. A path may lead into arrays, by index.
pub(super) fn find<'a>(dict: &'a Dict, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(dict.get(first)?, |value, step| match value {
        Value::Dict(_, dict) => dict.get(step),
        Value::Array(_, items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// The first key of `given` that is not in `accepted`.
pub(super) fn first_absent(given: &Dict, accepted: &Dict) -> Option<Vec<String>> {
    given.iter().find_map(|(key, value)| {
        let below = match (value, accepted.get(key)) {
            (_, None) => Some(Vec::new()),
            (Value::Dict(_, given), Some(Value::Dict(_, accepted))) => first_absent(given, accepted),
            _ => None,
        };
        below.map(|mut path| {
            path.insert(0, key.clone());
            path
        })
    })
}

/// The known key most like `key`: spelt almost the same, or of the same name in another table.
pub(super) fn nearest(key: &str, known: &Dict) -> Option<String> {
    let mut all = Vec::new();
    collect(known, "", &mut all);
    all.into_iter().min_by_key(|candidate| distance(key, candidate))
}

/// The same among the fields serde expected beside the last step of `path`.
pub(super) fn nearest_sibling(path: &[String], siblings: &[&str]) -> Option<String> {
    let (last, parents) = path.split_last()?;
    let nearest = siblings.iter().min_by_key(|sibling| strsim::damerau_levenshtein(last, sibling))?;
    // Far from all of them: it may belong to another table, which a search over all keys will find.
    if strsim::damerau_levenshtein(last, nearest) > last.chars().count() / 2 && parents.is_empty() {
        return None;
    }
    let steps: Vec<&str> = parents.iter().map(String::as_str).chain([*nearest]).collect();
    Some(steps.join("."))
}

fn distance(key: &str, candidate: &str) -> usize {
    let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let in_another_table = 1 + strsim::damerau_levenshtein(&name(key), &name(candidate));
    strsim::damerau_levenshtein(key, candidate).min(in_another_table)
}

fn collect(dict: &Dict, prefix: &str, all: &mut Vec<String>) {
    for (key, value) in dict {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Dict(_, inner) if !inner.is_empty() => collect(inner, &path, all),
            _ => all.push(path),
        }
    }
}
