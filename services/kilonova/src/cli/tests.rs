//! The command line as a whole: what it takes, and what it answers when nobody is there.

use clap::{CommandFactory, Parser};

use super::*;
use crate::cli::options::Format;

#[derive(Debug, Parser)]
#[command(name = "kilonova")]
struct Whole {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: GlobalOptions,
}

fn parse(line: &str) -> Result<Whole, clap::Error> {
    Whole::try_parse_from(std::iter::once("kilonova").chain(line.split(' ')))
}

#[test]
fn clap_finds_no_fault_with_it() {
    Whole::command().debug_assert();
}

#[test]
fn every_command_of_the_manual_parses() {
    for line in [
        "instance create web --flavor m1.small --image cirros --count 3 --wait",
        "instance create web --flavor f --image i --metadata a=b --metadata c=d --host h --exclude-host x",
        "instance list --state active,error --host compute-1 -o json",
        "instance show web",
        "instance explain web",
        "volume explain data",
        "instance delete web db --wait --allow-missing",
        "instance watch",
        "instance watch web --timeout 5s",
        "volume create data --size 10 --wait",
        "volume create --size 10",
        "volume create --size 10 --same-host a --same-host b --different-host c --local-to-instance web",
        "volume list",
        "volume show data",
        "volume delete data --wait",
        "flavor create m1.small --vcpus 1 --ram 512 --disk 1 --extra-spec trait:HW_CPU_X86_AVX2=required",
        "flavor list",
        "flavor show m1.small",
        "flavor delete m1.small m1.large",
        "image create cirros --min-disk 1 --property hw_architecture=x86_64",
        "image list",
        "image show cirros",
        "image delete cirros",
        "server-group create web --policy anti-affinity --max-per-host 2",
        "server-group list",
        "server-group show web",
        "server-group delete web db",
        "instance create web --flavor f --image i --group web",
        "host list --service compute",
        "host show compute-1",
        "host enable compute-1",
        "host disable compute-1 --reason maintenance",
        "host set compute-1 --zone az2 --trait CUSTOM_GOLD --trait CUSTOM_NEW",
        "host set compute-1 --own-zone --no-traits",
        "zone list",
        "aggregate create ssd --metadata disk=ssd",
        "aggregate list",
        "aggregate show ssd",
        "aggregate set ssd --metadata cpu_allocation_ratio=2 --unset disk",
        "aggregate add-host ssd compute-1 compute-2",
        "aggregate remove-host ssd compute-1",
        "aggregate delete ssd hdd",
        "service list",
        "service list conductor",
        "quota show --project demo",
        "scheduler dry-run --flavor m1.small",
        "scheduler dry-run --flavor f --image i --zone z --host h --hint group=web --count 3 --alternates 2",
        "scheduler dry-run --volume-size 10 --extra-spec thin=true --exclude-host b -o json",
        "store show",
        "store accept",
        "store accept 01a21692-f5a0-77ea-bd5e-52c79967c526 --by ada",
        "audit",
        "audit --heal --host compute-1 -o json",
        "quota set --instances 100 --cores -1",
        "--endpoint http://10.0.0.1:7770 --timeout 1m --output json quota show",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "instance create web",
        "instance create web --flavor f --image i --wait --validate-only",
        "instance delete",
        "instance create web --flavor f --image i --count 0",
        "instance create web --flavor f --image i --count -1",
        "instance create web --flavor f --image i --same-host a --same-host b",
        "server-group create web",
        "server-group create web --policy together",
        "volume create data",
        "host disable compute-1",
        "scheduler dry-run",
        "scheduler dry-run --flavor f --volume-size 10",
        "scheduler dry-run --flavor f --extra-spec thin=true",
        "scheduler dry-run --volume-size 10 --group web",
        "scheduler dry-run --flavor f --alternates 11",
        "scheduler dry-run --flavor f --hint query=x",
        "service list nova",
        "quota set",
        "instance list --timeout 5",
        "instance list -o yaml",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn global_options_are_taken_anywhere() {
    let whole = parse("instance list --endpoint http://h:1 --project demo -o json").unwrap();
    assert_eq!(whole.options.endpoint, "http://h:1");
    assert_eq!(whole.options.project(), "demo");
    assert_eq!(whole.options.output, Format::Json);
}

#[test]
fn help_documents_the_exit_codes() {
    let mut command = Whole::command();
    let instance = command.find_subcommand_mut("instance").expect("it is there");
    assert!(instance.render_help().to_string().contains("6  the api cannot be reached"));
}

#[tokio::test]
async fn nobody_there_is_exit_code_six() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let whole = parse(&format!("flavor list --endpoint http://{free} --timeout 2s")).unwrap();
    let failure = execute(whole.command, &whole.options).await.unwrap_err();
    assert_eq!(failure.exit_code(), 6);
    assert!(failure.lines()[0].starts_with("error: UNREACHABLE: no answer from the api at http://127.0.0.1"));
}
