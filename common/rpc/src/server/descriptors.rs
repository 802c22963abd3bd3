//! Which methods exist, which are served, and the descriptors that say so.
//!
//! [`prune`] takes away services and methods that are not served, so that reflection shows what works. Comments
//! hang on paths of indexes in `source_code_info`; they move with what they describe.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use prost_types::source_code_info::Location;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

use crate::wire::method::{self, MethodFacts, full_name};

/// What is served, by full service name.
pub type ServedServices = BTreeMap<String, Methods>;

/// Which of a service's methods are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Every one.
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl Methods {
    /// Whether this method is served.
    #[must_use]
    pub fn contains(&self, method: &str) -> bool {
        match self {
            Methods::All => true,
            Methods::Only(names) => names.contains(method),
        }
    }
}

/// Every method the descriptors know, by service.
#[derive(Clone, Debug, Default)]
pub struct KnownMethods(HashMap<String, Vec<MethodFacts>>);

impl KnownMethods {
    /// Adds what these descriptors define.
    pub fn add(&mut self, set: &FileDescriptorSet) {
        self.0.extend(method::services(set));
    }

    /// A service's methods.
    #[must_use]
    pub fn of(&self, service: &str) -> Option<&[MethodFacts]> {
        self.0.get(service).map(Vec::as_slice)
    }
}

/// The descriptors of what is served: unserved services and methods removed with their comments, and files that
/// nothing served needs left out.
#[must_use]
pub fn prune(set: &FileDescriptorSet, served: &ServedServices) -> FileDescriptorSet {
    let files: HashMap<&str, FileDescriptorProto> =
        set.file.iter().map(|file| (file.name(), prune_file(file, served))).collect();
    let mut needed = HashSet::new();
    let mut next: Vec<&str> =
        files.iter().filter(|(_, file)| !file.service.is_empty()).map(|(name, _)| *name).collect();
    while let Some(name) = next.pop() {
        if let Some(file) = files.get(name)
            && needed.insert(name)
        {
            next.extend(file.dependency.iter().map(String::as_str));
        }
    }
    let kept = set.file.iter().filter(|file| needed.contains(file.name()));
    FileDescriptorSet { file: kept.filter_map(|file| files.get(file.name()).cloned()).collect() }
}

/// Field numbers in `FileDescriptorProto` and `ServiceDescriptorProto`, of which comment paths are made.
const SERVICE: i32 = 6;
const METHOD: i32 = 2;

fn prune_file(file: &FileDescriptorProto, served: &ServedServices) -> FileDescriptorProto {
    let mut pruned = file.clone();
    let mut kept_services = Vec::new();
    let mut kept_methods = Vec::new();
    pruned.service.clear();
    for service in &file.service {
        let mut kept = service.clone();
        kept.method.clear();
        let mut methods = Vec::new();
        if let Some(wanted) = served.get(&full_name(file, service)) {
            for method in &service.method {
                let wanted = wanted.contains(method.name());
                methods.push(wanted.then_some(kept.method.len() as i32));
                if wanted {
                    kept.method.push(method.clone());
                }
            }
            kept_services.push(Some(pruned.service.len() as i32));
            pruned.service.push(kept);
        } else {
            kept_services.push(None);
        }
        kept_methods.push(methods);
    }
    if let Some(info) = &mut pruned.source_code_info {
        info.location.retain_mut(|location| reindex(location, &kept_services, &kept_methods));
    }
    pruned
}

/// Moves a comment's path to the new indexes; false if what it describes is gone.
fn reindex(location: &mut Location, services: &[Option<i32>], methods: &[Vec<Option<i32>>]) -> bool {
    let [SERVICE, service, rest @ ..] = location.path.as_mut_slice() else { return true };
    let old_service = *service as usize;
    let Some(Some(new_service)) = services.get(old_service) else { return false };
    *service = *new_service;
    let [METHOD, method, ..] = rest else { return true };
    let Some(Some(new_method)) = methods[old_service].get(*method as usize) else { return false };
    *method = *new_method;
    true
}

#[cfg(test)]
mod tests {
    use prost_types::{MethodDescriptorProto, SourceCodeInfo};

    use super::*;

    use prost_types::ServiceDescriptorProto;

    use crate::wire::method::MethodType;

    fn service(name: &str, methods: &[&str]) -> ServiceDescriptorProto {
        let method =
            |name: &&str| MethodDescriptorProto { name: Some((*name).to_owned()), ..Default::default() };
        ServiceDescriptorProto {
            name: Some(name.to_owned()),
            method: methods.iter().map(method).collect(),
            ..Default::default()
        }
    }

    fn comment(path: &[i32], text: &str) -> Location {
        Location { path: path.to_vec(), leading_comments: Some(text.to_owned()), ..Default::default() }
    }

    fn file(name: &str, dependency: &[&str], service: Vec<ServiceDescriptorProto>) -> FileDescriptorProto {
        FileDescriptorProto {
            name: Some(name.to_owned()),
            package: Some("p".to_owned()),
            dependency: dependency.iter().map(|name| (*name).to_owned()).collect(),
            service,
            ..Default::default()
        }
    }

    fn only(methods: &[&str]) -> Methods {
        Methods::Only(methods.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn keeps_what_is_served_and_moves_its_comments() {
        let mut one = file(
            "one",
            &["types"],
            vec![service("Gone", &["X"]), service("Part", &["A", "B", "C"]), service("Whole", &["D"])],
        );
        one.source_code_info = Some(SourceCodeInfo {
            location: vec![
                comment(&[4, 0], "message"),
                comment(&[6, 0], "Gone"),
                comment(&[6, 0, 2, 0], "Gone.X"),
                comment(&[6, 1], "Part"),
                comment(&[6, 1, 2, 0], "Part.A"),
                comment(&[6, 1, 2, 1, 2], "Part.B input"),
                comment(&[6, 1, 2, 2], "Part.C"),
                comment(&[6, 2, 2, 0], "Whole.D"),
            ],
        });
        let set = FileDescriptorSet {
            file: vec![
                file("types", &["deep"], vec![]),
                file("deep", &[], vec![]),
                file("unused", &[], vec![]),
                file("other", &["unused"], vec![service("Other", &["Y"])]),
                one,
            ],
        };
        let served: ServedServices =
            [("p.Part".to_owned(), only(&["B", "C"])), ("p.Whole".to_owned(), Methods::All)].into();

        let pruned = prune(&set, &served);

        let names: Vec<_> = pruned.file.iter().map(|file| file.name()).collect();
        assert_eq!(names, ["types", "deep", "one"]);
        let one = &pruned.file[2];
        let shape: Vec<(_, Vec<_>)> = one
            .service
            .iter()
            .map(|service| (service.name(), service.method.iter().map(|method| method.name()).collect()))
            .collect();
        assert_eq!(shape, [("Part", vec!["B", "C"]), ("Whole", vec!["D"])]);
        let comments: Vec<_> = one.source_code_info.as_ref().unwrap().location.iter().collect();
        assert_eq!(
            comments,
            [
                &comment(&[4, 0], "message"),
                &comment(&[6, 0], "Part"),
                &comment(&[6, 0, 2, 0, 2], "Part.B input"),
                &comment(&[6, 0, 2, 1], "Part.C"),
                &comment(&[6, 1, 2, 0], "Whole.D"),
            ]
        );
    }

    #[test]
    fn knows_methods_with_their_shape() {
        let mut watch = service("S", &["Get", "Watch"]);
        watch.method[1].server_streaming = Some(true);
        let mut known = KnownMethods::default();
        known.add(&FileDescriptorSet { file: vec![file("f", &[], vec![watch])] });
        let shapes = known.of("p.S").unwrap().iter().map(|facts| (facts.name.as_str(), facts.shape));
        let expected = [("Get", MethodType::Unary), ("Watch", MethodType::ServerStream)];
        assert_eq!(shapes.collect::<Vec<_>>(), expected);
        assert_eq!(known.of("p.T"), None);
    }
}
