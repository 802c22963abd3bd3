//! The least a decision could cost: one pass over four columns, and the best of what passes.

use kilonova_proto::scheduler::v1::SelectHostsRequest;
use kilonova_tests::placement::Host;

/// What is looked at.
pub struct Columns {
    vcpus: Vec<i32>,
    ram: Vec<i32>,
    disk: Vec<i32>,
    serving: Vec<i32>,
}

fn free(total: u32, ratio: f64, used: u32) -> i32 {
    (f64::from(total) * ratio) as i32 - used as i32
}

impl Columns {
    pub fn new(hosts: &[Host]) -> Self {
        let column = |figure: &dyn Fn(&Host) -> i32| hosts.iter().map(figure).collect();
        Self {
            vcpus: column(&|host| free(host.figures.vcpus, 4.0, host.figures.vcpus_used)),
            ram: column(&|host| free(host.figures.ram_mib, 1.0, host.figures.ram_used_mib + 512)),
            disk: column(&|host| free(host.figures.disk_gib, 1.0, host.figures.disk_used_gib)),
            serving: column(&|host| i32::from(host.up && host.enabled)),
        }
    }

    /// The host with the most free memory of those that fit.
    pub fn best(&self, request: &SelectHostsRequest) -> Option<usize> {
        let flavor = request.flavor.as_ref()?;
        let [vcpus, ram, disk] = [flavor.vcpus, flavor.ram_mib, flavor.disk_gib].map(|need| need as i32);
        let scores = self.vcpus.iter().zip(&self.ram).zip(&self.disk).zip(&self.serving);
        let score = |(((c, r), d), s): (((&i32, &i32), &i32), &i32)| {
            if (*c >= vcpus) & (*r >= ram) & (*d >= disk) & (*s != 0) { *r } else { -1 }
        };
        let best = scores.clone().map(score).fold(-1, i32::max);
        if best < 0 { None } else { scores.map(score).position(|score| score == best) }
    }
}
