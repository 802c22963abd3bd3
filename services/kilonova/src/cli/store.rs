//! `kilonova store …`.

use std::time::SystemTime;

use clap::Subcommand;
use kilonova_proto::api::v1::{AcceptStoreRequest, GetStoreRequest};
use kilonova_proto::types::v1::Store;

use super::client::Client;
use super::failure::Failure;
use super::format::{moment, or_dash};
use super::options::GlobalOptions;
use super::output::{Output, Row, details};

/// What can be done about the store's identity.
#[derive(Debug, Clone, Subcommand)]
pub enum StoreCommand {
    /// Show which store the cell has, and whether it was accepted.
    Show,
    /// Have agents and conductors go by this store, whatever they remember: work goes on, and what no record of it knows is an orphan then.
    Accept {
        /// The id that is meant; the present one if not given.
        id: Option<String>,
        /// Who says so; the user who runs this if not given.
        #[arg(long, value_name = "NAME", env = "USER", default_value = "")]
        by: String,
    },
}

impl Row for Store {
    const ONE: &'static str = "store";
    const MANY: &'static str = "stores";
    const COLUMNS: &'static [&'static str] = &["ID", "REVISION", "ACCEPTED"];

    fn row(&self, _now: SystemTime) -> Vec<String> {
        vec![self.id.clone(), self.revision.to_string(), self.accepted.to_string()]
    }
}

pub(super) async fn run(command: StoreCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let show = async || {
        let call = async |request| client.stores().get_store(request).await;
        Ok::<_, Failure>(client.call(GetStoreRequest {}, None, call).await?.store.unwrap_or_default())
    };
    let store = match command {
        StoreCommand::Show => show().await?,
        StoreCommand::Accept { id, by } => {
            let id = match id {
                Some(id) => id,
                None => show().await?.id,
            };
            let call = async |request| client.stores().accept_store(request).await;
            let request = AcceptStoreRequest { id, accepted_by: by };
            client.call(request, None, call).await?.store.unwrap_or_default()
        }
    };
    output.one(&store, || details(described(&store, SystemTime::now()), output.style()))
}

fn described(store: &Store, now: SystemTime) -> Vec<(&'static str, String)> {
    let accepted = if store.accepted {
        format!("{} by {}", moment(store.accept_time.as_ref(), now), or_dash(&store.accepted_by))
    } else {
        "no: agents that remember another store wait for `kilonova store accept`".to_owned()
    };
    let compared = match (store.previous_id.as_str(), store.compared) {
        ("", _) => or_dash(""),
        (_, true) => "yes".to_owned(),
        (_, false) => "no: conductors drive nothing before the hosts that are registered have".to_owned(),
    };
    let waiting = match store.waiting_ids.as_slice() {
        [] => or_dash(""),
        ids => format!("{}: they wait for `kilonova store accept`", ids.join(", ")),
    };
    vec![
        ("id", store.id.clone()),
        ("created", moment(store.create_time.as_ref(), now)),
        ("revision", store.revision.to_string()),
        ("accepted", accepted),
        ("before it was set back", or_dash(&store.previous_id)),
        ("hosts have compared", compared),
        ("agents remember", waiting),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_operator_is_said() {
        let row = |store: &Store, row: usize| described(store, SystemTime::now())[row].1.clone();
        let said = |store: &Store| row(store, 3);
        let waiting = Store { accepted: true, waiting_ids: vec!["one".into()], ..Store::default() };
        assert!(row(&waiting, 6).contains("one: they wait for `kilonova store accept`"));
        assert!(said(&Store::default()).contains("kilonova store accept"));
        let set_back = Store { accepted: true, previous_id: "one".into(), ..Store::default() };
        assert!(row(&set_back, 5).starts_with("no: conductors"));
        assert_eq!(row(&Store { compared: true, ..set_back }, 5), "yes");
        let accepted = Store { accepted: true, accepted_by: "ada".into(), ..Store::default() };
        assert!(said(&accepted).ends_with("by ada"));
    }
}
