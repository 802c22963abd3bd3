//! What `kilonova up` says once everything runs.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use kilonova_model::ServiceKind;

use super::cloud::Listening;
use super::seed::IMAGE;
use crate::config::{StoreConfig, StoreKind};

/// Where every service listens, and what to paste to try it.
pub fn banner(
    members: &[Listening],
    store: &StoreConfig,
    data: &Path,
    temporary: bool,
    foreign_store: Option<&str>,
    program: &str,
) -> String {
    let mut text = String::new();
    write_banner(&mut text, members, store, data, temporary, foreign_store, program)
        .expect("writing to a string cannot fail");
    text
}

fn write_banner(
    text: &mut String,
    members: &[Listening],
    store: &StoreConfig,
    data: &Path,
    temporary: bool,
    foreign_store: Option<&str>,
    program: &str,
) -> std::fmt::Result {
    writeln!(text, "Kilonova runs: {} services in this process.\n", members.len())?;
    writeln!(text, "  {:<10} {:<16} {:<21} HTTP", "SERVICE", "HOST", "GRPC")?;
    for member in members {
        let http = member.http.map_or("-".to_owned(), |http| http.to_string());
        let (service, host, grpc) = (member.service.as_str(), member.host.as_str(), member.grpc.to_string());
        writeln!(text, "  {service:<10} {host:<16} {grpc:<21} {http}")?;
    }
    writeln!(text, "\n  store: {}", described(store))?;
    let until = if temporary { " (removed at the end)" } else { "" };
    writeln!(text, "  data:  {}{until}", data.display())?;

    if let Some(api) = members.iter().find(|member| member.service == ServiceKind::Api) {
        let api = super::cloud::reachable(api.grpc);
        if let Some(reason) = foreign_store {
            writeln!(text, "\nNothing goes on before you say which store is the right one: {reason}.\n")?;
            writeln!(text, "  {program} --endpoint http://{api} store show")?;
            writeln!(text, "  {program} --endpoint http://{api} audit")?;
            return writeln!(text, "  {program} --endpoint http://{api} store accept\n\nCtrl-C stops it.");
        }
        writeln!(text, "\nTry it:\n")?;
        let hosts = members.iter().any(|member| member.service == ServiceKind::Compute);
        // Without a host an instance could only fail.
        for line in grpcurl_lines(api).iter().skip(usize::from(!hosts)) {
            writeln!(text, "  {line}")?;
        }
        writeln!(text, "\n  {program} --endpoint http://{api} instance list\n\nCtrl-C stops it.")?;
    }
    Ok(())
}

fn described(store: &StoreConfig) -> String {
    match store.kind {
        Some(StoreKind::Etcd) => format!("etcd at {}", store.endpoints.join(", ")),
        _ => "embedded".to_owned(),
    }
}

/// Create, list, watch.
fn grpcurl_lines(api: SocketAddr) -> [String; 3] {
    let spec =
        format!(r#"{{"instance": {{"name": "vm-1", "flavor_id": "m1.tiny", "image_id": "{IMAGE}"}}}}"#);
    let service = "kilonova.api.v1.InstanceService";
    [
        format!("grpcurl -plaintext -d '{spec}' {api} {service}/CreateInstance"),
        format!("grpcurl -plaintext {api} {service}/ListInstances"),
        format!("grpcurl -plaintext {api} {service}/WatchInstances"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::HostName;

    #[test]
    fn names_every_service_and_lines_that_can_be_pasted() {
        let member = |service, host: &str, port| Listening {
            service,
            host: HostName::parse(host).unwrap(),
            grpc: ([0, 0, 0, 0], port).into(),
            http: Some(([0, 0, 0, 0], port + 1000).into()),
        };
        let members =
            [member(ServiceKind::Api, "api-1", 7770), member(ServiceKind::Volume, "storage-1@sim", 7773)];
        let text = banner(&members, &StoreConfig::default(), Path::new("/d"), true, None, "kilonova");
        assert!(
            text.contains("  api        api-1            0.0.0.0:7770          0.0.0.0:8770\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "grpcurl -plaintext 127.0.0.1:7770 kilonova.api.v1.InstanceService/ListInstances\n"
            )
        );
        assert!(text.contains("\n  kilonova --endpoint http://127.0.0.1:7770 instance list\n"));
        assert!(!text.contains("CreateInstance"), "there is no host");
        assert!(text.contains("/d (removed at the end)"));
    }
}
