//! `kilonova demo`: a small cloud in this process, used through its public api only, and checked at the end.

mod journal;
mod screen;
mod script;
mod watching;

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Args;
use kilonova_model::ServiceKind;
use kilonova_proto::api::v1::{
    DeleteInstanceRequest, DeleteVolumeRequest, GetInstanceRequest, ListHostsRequest,
    ListInstanceActionsRequest,
};
use kilonova_proto::types::v1::{Host, Instance, action, instance};
use kilonova_runtime::config::{Sources, load};
use kilonova_runtime::telemetry::{Log, LogConfig};
use tempfile::TempDir;

use crate::cli::client::Client;
use crate::cli::output::{Row, table};
use crate::cli::wait::Standing;
use crate::cli::{explain, timeline};
use crate::config::Config;
use crate::failure::Failure;
use crate::serve::Process;
use crate::up::{self, Cloud, Counts, Plan, PortChoice, seed};

use screen::Screen;
use script::{Made, Script, send};
use watching::Watching;

/// What `kilonova demo` takes: nothing.
#[derive(Clone, Copy, Debug, Args)]
pub struct DemoFlags {}

const COUNTS: Counts = Counts { conductors: 2, schedulers: 2, hosts: 3, backends: 2 };
/// Hosts on which four small instances fit and one of 16 GiB does not, drivers slow enough to be watched, and one
/// name that does not build at its first attempt.
const SETTINGS: [(&str, &str); 8] = [
    ("compute.driver.vcpus", "8"),
    ("compute.driver.ram_mib", "16384"),
    ("compute.driver.disk_gib", "200"),
    ("compute.driver.latency", "400ms"),
    ("compute.driver.latency_jitter", "200ms"),
    ("compute.driver.fail", r#"[{name="unlucky", attempts=1}]"#),
    ("volume.driver.latency", "250ms"),
    ("volume.driver.latency_jitter", "100ms"),
];
/// How long all of it may take.
const WHOLE: Duration = Duration::from_secs(28);

/// Tells the story; what was kept of a bad ending is named.
pub async fn run(_flags: DemoFlags) -> Result<(), Failure> {
    let dir = tempfile::Builder::new().prefix("kilonova-demo-").tempdir();
    let dir = dir.map_err(|error| Failure::failed(format!("cannot make a temporary directory: {error}")))?;
    let log_file = dir.path().join("demo.log");
    let file = File::create(&log_file).map_err(Failure::failed)?;
    Log::start_in_file(&LogConfig::default(), file).map_err(Failure::failed)?;
    let process = Process::watch()?;
    let told = tokio::select! {
        told = tokio::time::timeout(WHOLE, story(dir.path())) => {
            told.unwrap_or_else(|_| Err(Failure::failed(format!("not done after {} s", WHOLE.as_secs()))))
        }
        () = process.stop.cancelled() => Err(Failure::failed("interrupted")),
    };
    told.map_err(|failure| kept(&failure, dir))
}

fn kept(failure: &Failure, dir: TempDir) -> Failure {
    let path = dir.keep();
    Failure::failed(format!(
        "the demo did not end well: {failure}; its log and data are in {}",
        path.display()
    ))
}

async fn story(dir: &Path) -> Result<(), Failure> {
    let mut screen = Screen::new();
    let cloud = Box::pin(start(&mut screen, dir)).await?;
    let client = up::client_of(&cloud, WHOLE).await?;
    seed::flavors_and_image(&client).await?;
    seed::hosts_up(&client, usize::from(COUNTS.hosts + COUNTS.backends)).await?;
    let mut watching = Watching::open(&client).await?;
    let script = Script::read();

    let made = create(&mut screen, &client, &mut watching, &script).await?;
    show_timeline(&mut screen, &client, &made).await?;
    show_second_chance(&mut screen, &client, &made).await?;
    let misfit = show_misfit(&mut screen, &client, &mut watching, &script).await?;
    show_hosts(&mut screen, &client).await?;
    clean_up(&mut screen, &client, &mut watching, &made, &misfit).await?;
    check_journals(&screen, &cloud, &made)?;
    cloud.stop().await;
    screen.block(&format!(
        "\nDone in {}: {} instances and {} volumes made once, deleted once; one build retried, one refused with \
         its reason.",
        screen.elapsed(),
        made.instances.len(),
        made.volumes.len()
    ));
    Ok(())
}

async fn start(screen: &mut Screen, dir: &Path) -> Result<Cloud, Failure> {
    screen.chapter("Start every service, each on a port of its own");
    let settings = SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let mut config: Config = load(Sources::new().settings(settings)).map_err(Failure::failed)?;
    config.data_dir = Some(dir.to_owned());
    let ip = Ipv4Addr::LOCALHOST.into();
    let cloud =
        Box::pin(Cloud::start(Plan { counts: COUNTS, ip, ports: PortChoice::Ephemeral, config })).await?;
    for kind in ServiceKind::ALL {
        let members = cloud.members().into_iter().filter(|member| member.service == kind);
        let places: Vec<String> = members.map(|member| format!("{} {}", member.host, member.grpc)).collect();
        screen.block(&format!("{:<10} {}", kind.as_str(), places.join("   ")));
    }
    screen.block(&format!("{:<10} {} (kept if it does not end well)", "log", dir.join("demo.log").display()));
    Ok(cloud)
}

async fn create(
    screen: &mut Screen,
    client: &Client,
    watching: &mut Watching,
    script: &Script,
) -> Result<Made, Failure> {
    screen.chapter("Create 5 instances and 2 volumes, and watch them");
    let made = watching.during(screen, send(client, &script.create)).await?;
    let all: Vec<String> = made.instances.iter().chain(&made.volumes).cloned().collect();
    watching.until(screen, &all, |standing| matches!(standing, Standing::Ready | Standing::Failed)).await?;
    for id in &made.instances {
        let instance = get(client, id).await?;
        expect(instance.state() == instance::State::Active, || {
            format!("{} ended {} and not ACTIVE", name_of(&instance), instance.state().as_str_name())
        })?;
    }
    Ok(made)
}

async fn show_timeline(screen: &mut Screen, client: &Client, made: &Made) -> Result<(), Failure> {
    let instance = get(client, &made.instances[0]).await?;
    screen.chapter(&format!("Where the time of {} went, across the services", name_of(&instance)));
    let request = ListInstanceActionsRequest { instance_id: instance.id, ..Default::default() };
    let mut instances = client.instances();
    let listed =
        client.call(request, None, async |request| instances.list_instance_actions(request).await).await?;
    let create = listed.actions.iter().find(|action| action.kind() == action::Kind::Create);
    let create = create.ok_or_else(|| Failure::failed("the instance has no history of its creation"))?;
    screen.block(&timeline::draw(create, SystemTime::now(), screen.style()));
    Ok(())
}

async fn show_second_chance(screen: &mut Screen, client: &Client, made: &Made) -> Result<(), Failure> {
    screen.chapter("A build that fails on its first host");
    let id = made.instances.last().ok_or_else(|| Failure::failed("nothing was created"))?;
    let instance = get(client, id).await?;
    let Some(failed) = instance.failed_attempts.first() else {
        return Err(Failure::failed("the build that should have failed once did not"));
    };
    expect(failed.host != instance.host && instance.attempt == 2, || {
        format!("the second attempt went to {} like the first", instance.host)
    })?;
    for fault in &instance.failed_attempts {
        screen.block(&format!(
            "attempt {}  {:<10} {}: {}",
            fault.attempt, fault.host, fault.reason, fault.message
        ));
    }
    screen.block(&format!("attempt {}  {:<10} ACTIVE", instance.attempt, instance.host));
    Ok(())
}

async fn show_misfit(
    screen: &mut Screen,
    client: &Client,
    watching: &mut Watching,
    script: &Script,
) -> Result<Made, Failure> {
    screen.chapter("One that fits nowhere");
    let made = watching.during(screen, send(client, &script.misfit)).await?;
    watching.until(screen, &made.instances, |standing| standing == Standing::Failed).await?;
    let instance = get(client, &made.instances[0]).await?;
    let explanation = instance.fault.as_ref().and_then(|fault| fault.explanation.as_ref());
    let explanation =
        explanation.ok_or_else(|| Failure::failed("the refusal came without an explanation"))?;
    screen.block(&format!("\n{}", explain::placement(explanation, screen.style())));
    Ok(made)
}

async fn show_hosts(screen: &mut Screen, client: &Client) -> Result<(), Failure> {
    screen.chapter("The hosts, as the schedulers know them");
    let request = ListHostsRequest { page_size: 1000, ..Default::default() };
    let mut hosts = client.hosts();
    let listed = client.call(request, None, async |request| hosts.list_hosts(request).await).await?;
    let now = SystemTime::now();
    let rows = listed.hosts.iter().map(|host| host.row(now)).collect();
    screen.block(&table(Host::COLUMNS, rows, screen.style()));
    Ok(())
}

async fn clean_up(
    screen: &mut Screen,
    client: &Client,
    watching: &mut Watching,
    made: &Made,
    misfit: &Made,
) -> Result<(), Failure> {
    screen.chapter("Delete everything");
    let instances: Vec<String> = made.instances.iter().chain(&misfit.instances).cloned().collect();
    watching.during(screen, delete(client, &instances, &made.volumes)).await?;
    let all: Vec<String> = instances.into_iter().chain(made.volumes.iter().cloned()).collect();
    watching.until(screen, &all, |standing| standing == Standing::Gone).await
}

async fn delete(client: &Client, instances: &[String], volumes: &[String]) -> Result<(), Failure> {
    for id in instances {
        let request = DeleteInstanceRequest { instance_id: id.clone(), ..Default::default() };
        let mut instances = client.instances();
        client.call(request, None, async |request| instances.delete_instance(request).await).await?;
    }
    for id in volumes {
        let request = DeleteVolumeRequest { volume_id: id.clone(), ..Default::default() };
        let mut volumes = client.volumes();
        client.call(request, None, async |request| volumes.delete_volume(request).await).await?;
    }
    Ok(())
}

fn check_journals(screen: &Screen, cloud: &Cloud, made: &Made) -> Result<(), Failure> {
    let (mut guests, mut volumes) = (Vec::new(), Vec::new());
    for member in cloud.members() {
        let dir = cloud.config().data_dir_of(member.service, &member.host);
        match member.service {
            ServiceKind::Compute => guests.extend(journal::read(&dir)?),
            ServiceKind::Volume => volumes.extend(journal::read(&dir)?),
            _ => {}
        }
    }
    let wrong =
        |what: String| Failure::failed(format!("the drivers' journals are not as they should be: {what}"));
    journal::check(&guests, journal::GUESTS, &made.instances).map_err(wrong)?;
    journal::check(&volumes, journal::VOLUMES, &made.volumes).map_err(wrong)?;
    screen.block("\nThe drivers' journals agree: each was made on exactly one host, and removed there once.");
    Ok(())
}

async fn get(client: &Client, id: &str) -> Result<Instance, Failure> {
    let request = GetInstanceRequest { instance_id: id.to_owned(), ..Default::default() };
    let mut instances = client.instances();
    let answer = client.call(request, None, async |request| instances.get_instance(request).await).await?;
    answer.instance.ok_or_else(|| Failure::failed(format!("the api answered without the instance {id}")))
}

fn name_of(instance: &Instance) -> &str {
    instance.spec.as_ref().map_or(&instance.id, |spec| &spec.name)
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::failed(otherwise())) }
}
