//! Opening the store the configuration names.

use std::path::Path;
use std::sync::Arc;

use kilonova_store::etcd::{Credentials, EtcdOptions, EtcdStore};
use kilonova_store::{EmbeddedOptions, EmbeddedStore, SharedStore, StoreError};

use crate::config::{StoreConfig, StoreKind};
use crate::failure::Failure;

/// Opens it, or says in one sentence why that cannot be. With `patient`, an etcd that is away is waited for in the
/// background.
pub async fn open(config: &StoreConfig, patient: bool) -> Result<SharedStore, Failure> {
    match config.kind {
        Some(StoreKind::Etcd) => etcd(config, patient).await,
        _ => embedded(config.path.as_deref().unwrap_or(Path::new("store")), config.accept_older),
    }
}

async fn etcd(config: &StoreConfig, patient: bool) -> Result<SharedStore, Failure> {
    let credentials = config
        .user
        .clone()
        .map(|user| Credentials { user, password: config.password.clone().unwrap_or_default() });
    let options = EtcdOptions { endpoints: config.endpoints.clone(), credentials, ..EtcdOptions::default() };
    let places = config.endpoints.join(", ");
    let connected = match EtcdStore::connect(options.clone()).await {
        Err(error) if patient && error.is_transient() => {
            tracing::warn!(etcd = places, %error, "etcd does not answer; starting with the members known from earlier");
            EtcdStore::connect_lazily(options).await
        }
        connected => connected,
    };
    match connected {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(Failure::failed(format!("etcd at {places} cannot be used: {}", cause(&error)))),
    }
}

fn embedded(dir: &Path, accept_older: bool) -> Result<SharedStore, Failure> {
    if accept_older {
        tracing::warn!(
            "store.accept_older is set: a store that has lost what it had is opened; unset it for the next start"
        );
    }
    match EmbeddedStore::open(dir, EmbeddedOptions { accept_older, ..EmbeddedOptions::default() }) {
        Ok(store) => Ok(Arc::new(store)),
        Err(error @ StoreError::Receded { .. }) => Err(Failure::failed(format!(
            "{error}; put back what is missing, or start once with --set store.accept_older=true, and then say \
             `kilonova store accept`, to go on with what is there: records made since then are gone, and their guests and volumes are orphans"
        ))),
        Err(error @ StoreError::InUse { .. }) => Err(Failure::failed(error)),
        Err(error) => Err(Failure::failed(format!(
            "the store in {} cannot be opened: {}",
            dir.display(),
            cause(&error)
        ))),
    }
}

/// The part of the error that does not repeat which store it is about.
pub fn cause(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable { message } | StoreError::Corrupt { message } => message.clone(),
        other => other.to_string(),
    }
}
