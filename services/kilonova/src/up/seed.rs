//! What a fresh cloud needs before anybody can use it: flavors, an image, and hosts a scheduler knows.

use std::time::Duration;

use kilonova_model::Reason;
use kilonova_proto::api::v1::{CreateFlavorRequest, CreateImageRequest, ListHostsRequest};
use kilonova_proto::types::v1::{Flavor, Image, host};
use kilonova_rpc::status::reason_of;
use tokio::time::{Instant, sleep};

use crate::cli::{self, client::Client};
use crate::failure::Failure;

/// Nova's classic sizes: name, CPUs, memory in MiB, disk in GiB.
const FLAVORS: [(&str, u32, u32, u32); 4] = [
    ("m1.tiny", 1, 512, 1),
    ("m1.small", 1, 2048, 20),
    ("m1.medium", 2, 4096, 40),
    ("m1.large", 4, 8192, 80),
];
/// The image everybody tries first.
pub const IMAGE: &str = "cirros";
/// How long hosts may take to be known.
const HOSTS_WITHIN: Duration = Duration::from_secs(15);

/// Makes the flavors and the image that are not there yet.
pub async fn flavors_and_image(client: &Client) -> Result<(), Failure> {
    for (id, vcpus, ram_mib, disk_gib) in FLAVORS {
        let flavor = Flavor { id: id.to_owned(), vcpus, ram_mib, disk_gib, ..Flavor::default() };
        let request = CreateFlavorRequest { flavor: Some(flavor), ..Default::default() };
        let mut flavors = client.flavors();
        existing_is_fine(
            client.call(request, None, async |request| flavors.create_flavor(request).await).await,
        )?;
    }
    let image = Image { id: IMAGE.to_owned(), min_disk_gib: 1, ..Image::default() };
    let request = CreateImageRequest { image: Some(image), ..Default::default() };
    let mut images = client.images();
    existing_is_fine(client.call(request, None, async |request| images.create_image(request).await).await)
}

fn existing_is_fine<T>(made: Result<T, cli::Failure>) -> Result<(), Failure> {
    match made {
        Ok(_) => Ok(()),
        Err(cli::Failure::Answered { status, .. }) if reason_of(&status) == Some(Reason::ResourceExists) => {
            Ok(())
        }
        Err(failure) => Err(failure.into()),
    }
}

/// Waits until the schedulers know this many hosts and backends to be up.
pub async fn hosts_up(client: &Client, expected: usize) -> Result<(), Failure> {
    let end = Instant::now() + HOSTS_WITHIN;
    loop {
        let request = ListHostsRequest { page_size: 1000, ..Default::default() };
        let mut hosts = client.hosts();
        let listed = client.call(request, None, async |request| hosts.list_hosts(request).await).await?;
        let up = listed.hosts.iter().filter(|host| host.state() == host::State::Up).count();
        if up >= expected {
            return Ok(());
        }
        if Instant::now() >= end {
            let seconds = HOSTS_WITHIN.as_secs();
            return Err(Failure::failed(format!("only {up} of {expected} hosts were up after {seconds} s")));
        }
        sleep(Duration::from_millis(20)).await;
    }
}
