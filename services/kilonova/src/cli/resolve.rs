//! Takes a name where an id is asked for.

use kilonova_model::Reason;

use super::failure::{Failure, not_found};

/// Finds out every one of `targets` before anything is done with one of them. One named twice is there once.
pub async fn all(
    targets: &[String],
    allow_missing: bool,
    find: impl AsyncFn(&str) -> Result<String, Failure>,
) -> Result<Vec<String>, Failure> {
    let mut ids = Vec::new();
    for text in targets {
        match find(text).await {
            Ok(id) if ids.contains(&id) => {}
            Ok(id) => ids.push(id),
            Err(failure) if allow_missing && failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(ids)
}

/// The one id of `kind` that is called `name`. More than one is an error that lists them.
pub fn unique<'a>(
    kind: &str,
    reason: Reason,
    name: &str,
    candidates: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<String, Failure> {
    let ids: Vec<&str> =
        candidates.into_iter().filter_map(|(id, called)| (called == name).then_some(id)).collect();
    match ids.as_slice() {
        [] => Err(not_found(reason, format!("no {kind} has the id or name `{name}`"))),
        [id] => Ok((*id).to_owned()),
        several => Err(Failure::Usage(format!(
            "{} {kind}s are named `{name}`: use the id of one of {}",
            several.len(),
            several.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_is_missing_stops_all_of_them() {
        let find = async |text: &str| unique("instance", Reason::InstanceNotFound, text, ALL);
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let missing = all(&named(&["db", "mail"]), false, find).await.unwrap_err();
        assert!(missing.is_not_found());
        assert_eq!(all(&named(&["db", "mail", "db"]), true, find).await.unwrap(), ["2"]);
    }

    const ALL: [(&str, &str); 3] = [("1", "web"), ("2", "db"), ("3", "web")];

    #[test]
    fn a_name_is_good_for_an_id_only_when_it_is_the_only_one() {
        assert_eq!(unique("instance", Reason::InstanceNotFound, "db", ALL).unwrap(), "2");
        let two = unique("instance", Reason::InstanceNotFound, "web", ALL).unwrap_err();
        assert_eq!(two.exit_code(), 2);
        assert_eq!(two.lines(), ["error: 2 instances are named `web`: use the id of one of 1, 3"]);
        let none = unique("instance", Reason::InstanceNotFound, "mail", ALL).unwrap_err();
        assert_eq!(none.exit_code(), 3);
        assert!(none.lines()[0].contains("INSTANCE_NOT_FOUND"));
    }
}
