use super::*;
use proptest::prelude::*;

fn cell(id: u32, cpus: u32, memory_mib: u32, pages: &[(u32, u32)]) -> HostCell {
    let pages = pages.iter().map(|(size, total)| (*size, Pages { total: *total, used: 0 })).collect();
    HostCell { id, cpus, memory_mib, pages, ..HostCell::default() }
}

fn guest(count: u32, vcpus: u32, memory_mib: u32) -> GuestCells {
    GuestCells { count, vcpus, pinned: true, memory_mib, page_size: PageSize::Small }
}

#[test]
fn each_guest_cell_has_a_host_cell_of_its_own() {
    let mut host = HostCells(vec![cell(0, 4, 8192, &[]), cell(1, 6, 8192, &[])]);
    let shares = host.fit(&guest(1, 3, 4096), 4.0).unwrap();
    assert_eq!(shares[0].cell, 1, "the one with most free threads");
    host.take(&shares);
    let error = host.fit(&guest(2, 4, 4096), 4.0).unwrap_err();
    let why = "needs 2 cells with 4 dedicated CPUs and 4096 MiB each; 1 of 2 cells do, at most 4 CPUs and 8192 MiB are free in one";
    assert_eq!(error.to_string(), why);
    assert!(host.fit(&guest(2, 3, 4096), 4.0).is_ok());
    assert!(host.fit(&guest(3, 1, 1), 4.0).is_err(), "there are two cells");
    assert!(HostCells::default().fit(&guest(1, 1, 1), 4.0).is_err());
}

#[test]
fn threads_that_are_pinned_are_not_shared() {
    let mut host = HostCells(vec![cell(0, 4, 8192, &[])]);
    let sharing = GuestCells { pinned: false, ..guest(1, 4, 1) };
    let shares = host.fit(&sharing, 2.0).unwrap();
    host.take(&shares);
    assert!(host.fit(&guest(1, 3, 1), 2.0).is_err(), "four that share need two threads at least");
    let pinned = host.fit(&guest(1, 2, 1), 2.0).unwrap();
    host.take(&pinned);
    assert!(host.fit(&GuestCells { vcpus: 1, ..sharing }, 2.0).is_err());
    assert_eq!((host.pinned(), host.vcpus()), (2, 6));
}

#[test]
fn pages_are_taken_in_the_size_asked_for() {
    let mut host = HostCells(vec![cell(0, 16, 8192, &[(2048, 1024), (1 << 20, 2)])]);
    let page_of = |host: &HostCells, page_size, memory_mib| {
        host.fit(&GuestCells { page_size, ..guest(1, 1, memory_mib) }, 1.0)
            .map(|shares| shares[0].page_kib)
            .ok()
    };
    assert_eq!(page_of(&host, PageSize::Small, 4096), Some(0), "huge pages are set apart");
    assert_eq!(page_of(&host, PageSize::Small, 4097), None);
    assert_eq!(page_of(&host, PageSize::Large, 1024), Some(1 << 20));
    assert_eq!(page_of(&host, PageSize::Large, 512), Some(2048), "they must be filled");
    assert_eq!(page_of(&host, PageSize::Any, 511), Some(0));
    assert_eq!(page_of(&host, PageSize::Kib(2048), 2050), None);
    assert_eq!(page_of(&host, PageSize::Kib(64), 64), None);
    let shares = host.fit(&GuestCells { page_size: PageSize::Large, ..guest(1, 1, 2048) }, 1.0).unwrap();
    host.take(&shares);
    assert_eq!(page_of(&host, PageSize::Large, 1024), Some(2048));
    assert_eq!(HostCells::read(&host.tell()), host);
}

fn any_host() -> impl Strategy<Value = HostCells> {
    let one = (0_u32..8, 0_u32..6, 0_u32..8, 0_u32..16, 0_u32..8, 0_u32..4);
    proptest::collection::vec(one, 0..5).prop_map(|cells| {
        let cells = cells.into_iter().zip(0..).map(|((cpus, pinned, shared, memory, used, pages), id)| {
            HostCell { pinned, shared, used_mib: used, ..cell(id, cpus, memory, &[(2048, pages)]) }
        });
        HostCells(cells.collect())
    })
}

fn any_guest() -> impl Strategy<Value = GuestCells> {
    let sizes = [PageSize::Small, PageSize::Large, PageSize::Any, PageSize::Kib(2048)];
    (1_u32..4, 1_u32..5, any::<bool>(), 1_u32..9, proptest::sample::select(sizes.to_vec())).prop_map(
        |(count, vcpus, pinned, memory_mib, page_size)| GuestCells {
            count,
            vcpus,
            pinned,
            memory_mib,
            page_size,
        },
    )
}

/// The rules said plainly: nothing of the cell is given twice.
fn is_sound(cell: &HostCell, ratio: f64) -> bool {
    let huge: u32 = cell.pages.iter().map(|(size, pages)| size / 1024 * pages.total).sum();
    cell.pinned <= cell.cpus
        && f64::from(cell.shared) <= f64::from(cell.cpus - cell.pinned) * ratio
        && cell.used_mib + huge <= cell.memory_mib
        && cell.pages.values().all(|pages| pages.used <= pages.total)
}

/// Whether any choice of cells and pages holds the guest, each tried.
fn any_way(host: &[HostCell], wanted: &GuestCells, ratio: f64) -> usize {
    let holds = |cell: &&HostCell| {
        let sizes: &[u32] = match wanted.page_size {
            PageSize::Small => &[0],
            PageSize::Any => &[0, 2048],
            PageSize::Large | PageSize::Kib(_) => &[2048],
        };
        sizes.iter().any(|size| {
            let mut cell = (*cell).clone();
            let threads = cell.cpus.saturating_sub(cell.pinned);
            let GuestCells { vcpus, pinned, memory_mib, .. } = *wanted;
            cell.change(
                &CellShare { cell: cell.id, vcpus, pinned, memory_mib, page_kib: *size },
                u32::saturating_add,
            );
            let mine = cell.pages.get(size).is_none_or(|pages| pages.used <= pages.total);
            let huge: u32 = cell.pages.iter().map(|(size, pages)| size / 1024 * pages.total).sum();
            let memory =
                *size > 0 && memory_mib % 2 == 0 || *size == 0 && cell.used_mib + huge <= cell.memory_mib;
            let cpus = cell.pinned <= cell.cpus
                && f64::from(cell.shared) <= f64::from(cell.cpus - cell.pinned) * ratio;
            vcpus <= threads && cpus && mine && memory
        })
    };
    host.iter().filter(holds).count()
}

proptest! {
    #[test]
    fn what_fits_is_found_and_nothing_else(host in any_host(), wanted in any_guest(), ratio in 1_u32..4) {
        let ratio = f64::from(ratio) / 2.0 + 0.5;
        let enough = any_way(&host.0, &wanted, ratio) >= wanted.count as usize;
        prop_assert_eq!(host.fit(&wanted, ratio).is_ok(), enough);
    }

    #[test]
    fn no_cell_gives_more_than_it_has(guests in proptest::collection::vec((any_guest(), any::<bool>()), 1..60)) {
        let empty = HostCells(vec![cell(0, 8, 32, &[(2048, 4)]), cell(1, 4, 64, &[(2048, 8)]), cell(2, 8, 16, &[])]);
        let (mut host, mut held) = (empty.clone(), Vec::new());
        for (wanted, take) in guests {
            if let (true, Ok(shares)) = (take, host.fit(&wanted, 1.5)) {
                let mut cells: Vec<u32> = shares.iter().map(|share| share.cell).collect();
                cells.dedup();
                prop_assert_eq!(cells.len(), wanted.count as usize);
                host.take(&shares);
                held.push(shares);
            } else if let Some(shares) = held.pop() {
                host.give_back(&shares);
            }
            prop_assert!(host.0.iter().all(|cell| is_sound(cell, 1.5)), "{:?}", host);
        }
        held.iter().for_each(|shares| host.give_back(shares));
        prop_assert_eq!(host, empty);
    }
}
