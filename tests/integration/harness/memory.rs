//! What the program needed of the machine.

/// `VmHWM`: the most that was ever resident, of the program itself below its shell.
pub(crate) fn peak_resident_kib(pid: u32) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let of_children =
        children.split_whitespace().filter_map(|child| child.parse().ok()).map(peak_resident_kib);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    of_children.chain(own).max().expect("VmHWM")
}
