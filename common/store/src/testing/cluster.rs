//! Three etcd members that elect a leader.

use std::io;
use std::path::Path;
use std::time::Duration;

use etcd_client::{Client, ResponseHeader, StatusResponse};
use tokio::time::{Instant, timeout};

use super::{EtcdProcess, Place, START_ATTEMPTS, START_DEADLINE, find_binary};

const MEMBERS: usize = 3;
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// A cluster of three etcd members. They are killed when this is dropped.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<EtcdProcess>,
}

impl EtcdCluster {
    /// Starts it and waits until every member serves. None, after printing `SKIPPED: etcd not found`, when there is no
    /// such program.
    pub async fn start() -> io::Result<Option<Self>> {
        let Some(binary) = find_binary() else {
            println!("SKIPPED: etcd not found");
            return Ok(None);
        };
        let mut attempt = 1;
        loop {
            match Self::start_once(&binary).await {
                Err(error) if attempt == START_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
                Ok(cluster) => return Ok(Some(cluster)),
            }
        }
    }

    async fn start_once(binary: &Path) -> io::Result<Self> {
        let names = (1..=MEMBERS).map(|number| format!("test-{number}"));
        let mut places = names.map(|name| Place::new(&name)).collect::<io::Result<Vec<_>>>()?;
        let all: Vec<_> = places.iter().map(|place| place.initial_cluster.clone()).collect();
        for place in &mut places {
            place.initial_cluster = all.join(",");
        }
        let launch = |place| EtcdProcess::launch(binary.to_owned(), place);
        let mut members = places.into_iter().map(launch).collect::<io::Result<Vec<_>>>()?;
        for member in &mut members {
            member.wait_until_it_listens().await?;
        }
        let cluster = Self { members };
        cluster.wait_until_it_is_led().await?;
        Ok(cluster)
    }

    /// Every member listens before it has a leader, without which it answers nothing.
    async fn wait_until_it_is_led(&self) -> io::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        for member in &self.members {
            while !member_status(&member.endpoint()).await.is_ok_and(|status| status.leader() != 0) {
                if Instant::now() > deadline {
                    return Err(io::Error::other(format!("etcd has no leader: {}", member.log())));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// The addresses for clients, as `host:port`; those of the dead included.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(EtcdProcess::endpoint).collect()
    }

    /// Kills the leader (SIGKILL) and says which member that was.
    pub async fn kill_leader(&mut self) -> io::Result<usize> {
        for number in 0..self.members.len() {
            let status = member_status(&self.members[number].endpoint()).await?;
            let own = status.header().map(ResponseHeader::member_id);
            if own == Some(status.leader()) {
                self.members[number].kill()?;
                return Ok(number);
            }
        }
        Err(io::Error::other("no member leads"))
    }

    /// Starts a member again that was killed.
    pub async fn restart(&mut self, number: usize) -> io::Result<()> {
        self.members[number].restart().await
    }
}

async fn member_status(endpoint: &str) -> io::Result<StatusResponse> {
    let asked = async {
        let mut client = Client::connect([endpoint], None).await?;
        client.status().await
    };
    match timeout(STATUS_DEADLINE, asked).await {
        Ok(answer) => answer.map_err(io::Error::other),
        Err(_) => Err(io::Error::other(format!("{endpoint} does not answer"))),
    }
}
