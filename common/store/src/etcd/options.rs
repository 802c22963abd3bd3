//! How to reach an etcd cluster, and how patient to be with it.

use std::fmt;
use std::time::Duration;

use etcd_client::ConnectOptions;

/// A user of etcd and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password. Not shown by `Debug`.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Where etcd is, and every deadline and interval of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    /// The members, each as `host:port` or a URL.
    pub endpoints: Vec<String>,
    /// Who to be, where etcd wants to know.
    pub credentials: Option<Credentials>,
    /// How long the first answer of the cluster may take.
    pub connect_deadline: Duration,
    /// How long any other call may take, repetitions included.
    pub call_deadline: Duration,
    /// How often an open connection is checked. etcd closes connections that ask more often than it allows, by default
    /// every 5 seconds.
    pub keep_alive_interval: Duration,
    /// How long that check may take until the connection counts as dead.
    pub keep_alive_timeout: Duration,
    /// The longest pause between two attempts of a watch to reconnect.
    pub reconnect_pause: Duration,
    /// About how often it is looked whether this is still the same store.
    pub probe_interval: Duration,
    /// About how often a watch compares what it reported with what is there.
    pub audit_interval: Duration,
    /// How late a change may reach a watch before the audit takes it for lost.
    pub audit_grace: Duration,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:2379".to_owned()],
            credentials: None,
            connect_deadline: Duration::from_secs(5),
            call_deadline: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
            reconnect_pause: Duration::from_secs(5),
            probe_interval: Duration::from_secs(3),
            audit_interval: Duration::from_secs(7 * 60),
            audit_grace: Duration::from_secs(5),
        }
    }
}

impl EtcdOptions {
    pub(super) fn for_client(&self) -> ConnectOptions {
        let options = ConnectOptions::new()
            .with_keep_alive(self.keep_alive_interval, self.keep_alive_timeout)
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(self.call_deadline)
            .with_auto_token_refresh(true)
            // Without it a member cut off from the others keeps a watch open that reports nothing.
            .with_require_leader(true);
        match &self.credentials {
            Some(credentials) => options.with_user(&credentials.user, &credentials.password),
            None => options,
        }
    }
}
