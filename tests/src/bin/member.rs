//! For tests: one member in a process of its own, an echo or a real service. Prints where it listens once it serves;
//! stops in good order on SIGTERM.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_runtime::service::{Launch, LaunchOptions, Running, StartError};
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use kilonova_tests::Plan;
use kilonova_tests::cluster::Backing;
use kilonova_tests::echo::Echo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// One member of a service.
#[derive(Parser)]
struct Flags {
    /// The service it registers as.
    #[arg(long)]
    service: ServiceKind,
    /// Its name.
    #[arg(long)]
    host: String,
    /// Only answers, as the tests' echo does.
    #[arg(long)]
    echo: bool,
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Where it registers; nowhere that anybody looks if not given.
    #[arg(long)]
    etcd: Option<String>,
    /// Where an agent keeps what it knows.
    #[arg(long, default_value = ".")]
    data_dir: PathBuf,
    /// Where it keeps the members it knows, to start from while etcd is away.
    #[arg(long)]
    snapshot: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse();
    let mut term = signal(SignalKind::terminate())?;
    let store: SharedStore = match &flags.etcd {
        Some(endpoint) => {
            let options = EtcdOptions { endpoints: vec![endpoint.clone()], ..Default::default() };
            let connected = match flags.snapshot.as_ref().is_some_and(|file| file.is_file()) {
                true => EtcdStore::connect_lazily(options).await?,
                false => EtcdStore::connect(options).await?,
            };
            Arc::new(connected)
        }
        None => Arc::new(EmbeddedStore::open_temporary()?),
    };
    let launch = Launch {
        service: flags.service,
        host: HostName::parse(&flags.host)?,
        cell: CellName::parse("test")?,
        zone: ZoneName::parse("zone-1")?,
        store,
        listener: TcpListener::bind(&flags.listen).await?,
        http: None,
        advertise: None,
        options: LaunchOptions { snapshot: flags.snapshot.clone(), ..Default::default() },
    };
    let running = start(&flags, launch).await?;
    println!("{}", running.grpc_addr);
    tokio::select! {
        _ = term.recv() => running.stop().await,
        why = running.wait() => return Err(why.into()),
    }
    Ok(())
}

async fn start(flags: &Flags, launch: Launch) -> Result<Running, StartError> {
    if flags.echo {
        let context = launch.register().await?;
        // What a member follows is what it knows when it starts again.
        let _known = context.registry.members(flags.service);
        let server = Echo::new(&flags.host).add_to(context.server());
        return context.serve(server).await;
    }
    let mut plan = Plan::new(Backing::Etcd);
    plan.compute.driver.vcpus = 100_000;
    plan.compute.driver.ram_mib = 100_000_000;
    plan.compute.driver.disk_gib = 1_000_000;
    let data_dir = flags.data_dir.clone();
    match flags.service {
        ServiceKind::Api => Box::pin(kilonova_api::start(Default::default(), launch)).await,
        ServiceKind::Conductor => Box::pin(kilonova_conductor::start(plan.conductor, launch)).await,
        ServiceKind::Scheduler => Box::pin(kilonova_scheduler::start(plan.scheduler, launch)).await,
        ServiceKind::Compute => {
            let config = kilonova_compute::Config { data_dir, ..plan.compute };
            Box::pin(kilonova_compute::start(config, launch)).await
        }
        ServiceKind::Volume => {
            let config = kilonova_volume::Config { data_dir, ..plan.volume };
            Box::pin(kilonova_volume::start(config, launch)).await
        }
    }
}
