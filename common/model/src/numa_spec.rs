//! What a flavor asks of a host's NUMA cells, by Nova's extra specs.

use std::collections::BTreeMap;
use std::fmt;

use kilonova_proto::types::v1::Flavor;

/// How many cells the guest has; its virtual CPUs and memory are divided evenly.
pub const NUMA_NODES: &str = "hw:numa_nodes";
/// `dedicated` gives each virtual CPU a thread of its own; `shared` does not.
pub const CPU_POLICY: &str = "hw:cpu_policy";
/// In which pages its memory is: `small`, `large`, `any`, or a size such as `2048` (KiB), `2MB` or `1GB`.
pub const MEM_PAGE_SIZE: &str = "hw:mem_page_size";
/// Most cells of one guest.
const MAX_CELLS: u32 = 8;
/// Largest page, in KiB.
const MAX_PAGE_KIB: u32 = 16 << 20;

/// In which pages memory is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PageSize {
    /// Ordinary ones.
    #[default]
    Small,
    /// The largest huge pages that it fits in.
    Large,
    /// The largest that it fits in, ordinary ones as the last.
    Any,
    /// Huge pages of this size in KiB.
    Kib(u32),
}

/// The cells of a guest, all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestCells {
    /// How many.
    pub count: u32,
    /// Virtual CPUs of each.
    pub vcpus: u32,
    /// Whether each virtual CPU has a thread of its own.
    pub pinned: bool,
    /// Memory of each, in MiB.
    pub memory_mib: u32,
    /// In which pages.
    pub page_size: PageSize,
}

impl GuestCells {
    /// The virtual CPUs of all of them.
    #[must_use]
    pub fn all_vcpus(&self) -> u32 {
        self.count.saturating_mul(self.vcpus)
    }

    /// The threads that belong to one virtual CPU each.
    #[must_use]
    pub fn pinned_vcpus(&self) -> u32 {
        if self.pinned { self.all_vcpus() } else { 0 }
    }
}

impl fmt::Display for GuestCells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, vcpus, memory_mib, .. } = self;
        let (cells, each) = if *count == 1 { ("cell", "") } else { ("cells", " each") };
        let cpus = if self.pinned { "dedicated CPUs" } else { "CPUs" };
        write!(f, "{count} {cells} with {vcpus} {cpus} and {memory_mib} MiB{each}")?;
        match self.page_size {
            PageSize::Small => Ok(()),
            PageSize::Large => write!(f, " in huge pages"),
            PageSize::Any => write!(f, " in pages of one size"),
            PageSize::Kib(size) => write!(f, " in pages of {size} KiB"),
        }
    }
}

/// What a flavor asks for, if it asks for cells; or which extra spec should have said what.
pub fn requested(flavor: &Flavor) -> Result<Option<GuestCells>, (&'static str, String)> {
    let specs = &flavor.extra_specs;
    let count = count(specs, flavor)?;
    let pinned = match specs.get(CPU_POLICY).map(String::as_str) {
        Some("dedicated") => true,
        Some("shared") | None => false,
        Some(_) => return Err((CPU_POLICY, "`dedicated` or `shared`".to_owned())),
    };
    let page_size =
        specs.get(MEM_PAGE_SIZE).map(|text| page_size(text).ok_or_else(|| (MEM_PAGE_SIZE, PAGES.to_owned())));
    let page_size = page_size.transpose()?;
    if let Some(PageSize::Kib(size)) = page_size
        && u64::from(flavor.ram_mib) * 1024 % (u64::from(size) * u64::from(count.unwrap_or(1))) != 0
    {
        let ram = flavor.ram_mib;
        return Err((
            MEM_PAGE_SIZE,
            format!("pages that the flavor's {ram} MiB fill, in every cell of the guest"),
        ));
    }
    if count.is_none() && !pinned && page_size.is_none() {
        return Ok(None);
    }
    // As in Nova, a guest that asks for the one or the other has a cell.
    let count = count.unwrap_or(1);
    Ok(Some(GuestCells {
        count,
        vcpus: flavor.vcpus / count,
        pinned,
        memory_mib: flavor.ram_mib / count,
        page_size: page_size.unwrap_or_default(),
    }))
}

const PAGES: &str = "`small`, `large`, `any`, or a size such as `2048` (KiB), `2MB` or `1GB`";

fn count(specs: &BTreeMap<String, String>, flavor: &Flavor) -> Result<Option<u32>, (&'static str, String)> {
    let Some(text) = specs.get(NUMA_NODES) else { return Ok(None) };
    let count = text.parse().ok().filter(|count| (1..=MAX_CELLS).contains(count));
    let count: u32 = count.ok_or_else(|| (NUMA_NODES, format!("1 to {MAX_CELLS}")))?;
    if !(flavor.vcpus.is_multiple_of(count) && flavor.ram_mib.is_multiple_of(count)) {
        let (vcpus, ram) = (flavor.vcpus, flavor.ram_mib);
        return Err((
            NUMA_NODES,
            format!("a number that divides the flavor's {vcpus} vCPUs and {ram} MiB evenly"),
        ));
    }
    Ok(Some(count))
}

fn page_size(text: &str) -> Option<PageSize> {
    match text {
        "small" => return Some(PageSize::Small),
        "large" => return Some(PageSize::Large),
        "any" => return Some(PageSize::Any),
        _ => {}
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let kib = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "kb" | "kib" => 1,
        "mb" | "mib" => 1 << 10,
        "gb" | "gib" => 1 << 20,
        _ => return None,
    };
    let size = digits.parse::<u32>().ok()?.checked_mul(kib)?;
    // Those of 4 KiB are the ordinary ones.
    match size {
        4 => Some(PageSize::Small),
        5..=MAX_PAGE_KIB => Some(PageSize::Kib(size)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(specs: &[(&str, &str)]) -> Result<Option<GuestCells>, (&'static str, String)> {
        let extra_specs = specs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        requested(&Flavor { vcpus: 4, ram_mib: 8192, extra_specs, ..Flavor::default() })
    }

    #[test]
    fn one_wish_makes_one_cell() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[(CPU_POLICY, "shared")]), Ok(None));
        let one =
            GuestCells { count: 1, vcpus: 4, pinned: false, memory_mib: 8192, page_size: PageSize::Small };
        assert_eq!(read(&[(NUMA_NODES, "1")]), Ok(Some(one)));
        assert_eq!(read(&[(CPU_POLICY, "dedicated")]), Ok(Some(GuestCells { pinned: true, ..one })));
        let pages = |text| read(&[(MEM_PAGE_SIZE, text)]).map(|cells| cells.unwrap().page_size);
        for (text, size) in
            [("large", PageSize::Large), ("2048", PageSize::Kib(2048)), ("2MB", PageSize::Kib(2048))]
        {
            assert_eq!(pages(text), Ok(size));
        }
        assert_eq!((pages("1GB"), pages("4")), (Ok(PageSize::Kib(1 << 20)), Ok(PageSize::Small)));
        let two =
            read(&[(NUMA_NODES, "2"), (CPU_POLICY, "dedicated"), (MEM_PAGE_SIZE, "any")]).unwrap().unwrap();
        assert_eq!(two.to_string(), "2 cells with 2 dedicated CPUs and 4096 MiB each in pages of one size");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (key, value) in [
            (NUMA_NODES, "0"),
            (NUMA_NODES, "3"),
            (NUMA_NODES, "9"),
            (NUMA_NODES, "two"),
            (CPU_POLICY, "mine"),
            (MEM_PAGE_SIZE, "huge"),
            (MEM_PAGE_SIZE, "0"),
            (MEM_PAGE_SIZE, "2TB"),
            (MEM_PAGE_SIZE, "3MB"),
            (MEM_PAGE_SIZE, ""),
        ] {
            assert_eq!(read(&[(key, value)]).unwrap_err().0, key, "{value}");
        }
        assert_eq!(
            read(&[(NUMA_NODES, "8")]).unwrap_err().1,
            "a number that divides the flavor's 4 vCPUs and 8192 MiB evenly"
        );
    }
}
