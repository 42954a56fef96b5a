//! The nested machine as a caller sees it: say which kind, what files it holds, and what to run.

use std::io::Seek;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::initramfs::Initramfs;
use super::qemu::{Hardware, memory_file};
use super::session::Session;
use super::wire::{DESCRIPTION_PATH, Description, JobDescription, MODULES_PATH};
use super::{Assets, Input, Job, JobResult, Kind, NestedError, Outcome, Streams};

/// The machine's memory unless said otherwise, in MiB.
pub const DEFAULT_MEMORY_MIB: u32 = 1024;
/// Where mmvisor's own executable is in the machine: a job that runs mmvisor names this.
pub const GUEST_EXECUTABLE: &str = "/init";
/// A named pipe in the machine. What a job writes there reaches the host apart from its standard output
/// and error.
pub const SIDE_OUTPUT: &str = "/mmvisor/side";

/// What the kernel and mmvisor need in the machine beside its files, in MiB.
const OWN_MIB: u64 = 192;

/// How large the machine is.
#[derive(Clone, Copy, Debug)]
enum Memory {
    /// So many MiB.
    Mib(u32),
    /// What a guest with so many bytes needs around it.
    Guest(u64),
}

/// A machine to be. Each run boots it anew and leaves nothing behind.
///
/// ```no_run
/// # fn main() -> Result<(), vmm::nested::NestedError> {
/// use vmm::nested::{Job, Kind, Machine};
///
/// let results = Machine::new(Kind::Shadow)
///     .program("/bin/busybox".as_ref())
///     .run_jobs(vec![Job::new(["/bin/busybox", "true"])])?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Machine {
    kind: Kind,
    memory: Memory,
    nodes: u8,
    limit: Option<Duration>,
    executable: Option<PathBuf>,
    assets: Option<Assets>,
    programs: Vec<PathBuf>,
    files: Vec<(PathBuf, PathBuf)>,
}

impl Machine {
    /// A machine with this kind of KVM, [`DEFAULT_MEMORY_MIB`], no time limit and no files but
    /// mmvisor's own.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Machine {
            kind,
            memory: Memory::Mib(DEFAULT_MEMORY_MIB),
            nodes: 1,
            limit: None,
            executable: None,
            assets: None,
            programs: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The machine's memory, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory = Memory::Mib(memory_mib);
        self
    }

    /// Gives the machine the memory that it needs to run one guest of `bytes` at a time, instead of a
    /// fixed amount.
    #[must_use]
    pub fn room_for_guest(mut self, bytes: u64) -> Self {
        self.memory = Memory::Guest(bytes);
        self
    }

    /// Divides the machine's memory among so many NUMA nodes; its processor is on the first.
    #[must_use]
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// How long a run may take, the start of the machine included.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Adds an executable of the host, at the same (absolute) path; if it is dynamic, with its shared
    /// libraries.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        self.programs.push(path.to_owned());
        self
    }

    /// Adds a file of the host at the path `guest`.
    #[must_use]
    pub fn file(mut self, host: &Path, guest: &Path) -> Self {
        self.files.push((host.to_owned(), guest.to_owned()));
        self
    }

    /// The mmvisor executable that becomes the machine's first process, and [`launch`](super::launch)es
    /// QEMU. Without this it is the running executable, which then has to be mmvisor: a test names
    /// `env!("CARGO_BIN_EXE_mmvisor")`.
    #[must_use]
    pub fn executable(mut self, path: &Path) -> Self {
        self.executable = Some(path.to_owned());
        self
    }

    /// What to build the machine from, instead of what [`Assets::find`] finds.
    #[must_use]
    pub fn assets(mut self, assets: Assets) -> Self {
        self.assets = Some(assets);
        self
    }

    /// Runs one job with the caller's streams, as they come.
    ///
    /// # Errors
    /// Whatever is wrong around the job; how the job itself ended is the [`Outcome`].
    pub fn run(&self, mut job: Job, mut streams: Streams<'_>) -> Result<Outcome, NestedError> {
        let input = std::mem::take(&mut job.stdin);
        self.start(&[job])?.run(input, &mut streams)
    }

    /// Runs one job after another in one machine and collects what they write.
    ///
    /// # Errors
    /// Whatever is wrong around the jobs. The results of the jobs before are then lost, unlike with
    /// [`Machine::run_each`].
    pub fn run_jobs(&self, jobs: Vec<Job>) -> Result<Vec<JobResult>, NestedError> {
        let mut results = Vec::with_capacity(jobs.len());
        self.run_each(jobs, |result| results.push(result))?;
        Ok(results)
    }

    /// The same, and each job's result is handed out when the job has ended: what was done before the
    /// machine was lost is known, and the job that it was lost in.
    ///
    /// # Errors
    /// Whatever is wrong around the jobs.
    pub fn run_each(
        &self,
        mut jobs: Vec<Job>,
        mut each: impl FnMut(JobResult),
    ) -> Result<(), NestedError> {
        let inputs: Vec<Input> =
            jobs.iter_mut().map(|job| std::mem::take(&mut job.stdin)).collect();
        let mut session = self.start(&jobs)?;
        for input in inputs {
            let (mut stdout, mut stderr, mut side) = (Vec::new(), Vec::new(), Vec::new());
            let mut streams = Streams { stdout: &mut stdout, stderr: &mut stderr, side: &mut side };
            let outcome = session.run(input, &mut streams)?;
            each(JobResult { outcome, stdout, stderr, side });
        }
        Ok(())
    }

    /// Boots the machine, ready for the first of these jobs.
    fn start(&self, jobs: &[Job]) -> Result<Session, NestedError> {
        let assets = self.assets.clone().map_or_else(Assets::find, Ok)?;
        let executable = match &self.executable {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .map_err(NestedError::host("finding mmvisor's own executable"))?,
        };
        let initramfs = self.initramfs(&assets, &executable, jobs)?;
        let mut archive = memory_file()?;
        initramfs.write_to(&mut archive)?;
        let size =
            archive.stream_position().map_err(NestedError::host("measuring the file system"))?;
        // The archive and what is unpacked from it are there at the same time, and then there is KVM.
        let needed_mib = (size >> 20).saturating_mul(2) + OWN_MIB;
        let memory_mib = self.memory.mib(needed_mib, host_mib())?;
        let hardware = Hardware { memory_mib, nodes: self.nodes };
        Session::start(&assets, hardware, &executable, &archive, self.limit)
    }

    fn initramfs(
        &self,
        assets: &Assets,
        executable: &Path,
        jobs: &[Job],
    ) -> Result<Initramfs, NestedError> {
        let manifest = assets.manifest()?;
        let mut initramfs = Initramfs::default();
        initramfs.init(executable)?;
        for name in manifest.transport.iter().chain(&manifest.kvm) {
            initramfs.module(&assets.kernel.join(name), &format!("{MODULES_PATH}/{name}"))?;
        }
        for program in &self.programs {
            initramfs.executable(program, program)?;
        }
        for (host, guest) in &self.files {
            initramfs.file(host, guest)?;
        }
        let jobs = jobs.iter().map(JobDescription::from).collect();
        let description =
            Description { kind: self.kind, transport: manifest.transport, kvm: manifest.kvm, jobs };
        let description = serde_json::to_vec(&description)
            .map_err(|error| NestedError::host("describing the jobs")(error.into()))?;
        initramfs.bytes(DESCRIPTION_PATH, description);
        Ok(initramfs)
    }
}

/// The host's memory, in MiB.
fn host_mib() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit.max(1))) >> 20
}

impl Memory {
    /// In MiB, for a machine that needs `needed_mib` itself, on a host that has `host_mib`.
    fn mib(self, needed_mib: u64, host_mib: u64) -> Result<u32, NestedError> {
        match self {
            Memory::Mib(memory_mib) if u64::from(memory_mib) < needed_mib => {
                Err(NestedError::TooLittleMemory { memory_mib, needed_mib })
            }
            Memory::Mib(memory_mib) => Ok(memory_mib),
            Memory::Guest(bytes) => {
                // A sixteenth is for what the kernel, KVM and mmvisor keep for each page.
                let guest_mib = bytes.div_ceil(1 << 20);
                let total_mib = needed_mib.saturating_add(guest_mib + guest_mib.div_ceil(16));
                u32::try_from(total_mib)
                    .ok()
                    .filter(|_| total_mib <= host_mib)
                    .ok_or(NestedError::TooMuchMemory { guest_mib, total_mib, host_mib })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_room_for_its_guest_and_itself() {
        let mib = |bytes| Memory::Guest(bytes).mib(200, 4096).map_err(|error| error.to_string());
        assert_eq!(mib(4096), Ok(200 + 2));
        assert_eq!(mib(1 << 30), Ok(200 + 1024 + 64));
    }

    #[test]
    fn a_guest_that_leaves_no_room_for_its_machine_on_this_host_is_refused() {
        for bytes in [4 << 30, u64::MAX] {
            let refused = Memory::Guest(bytes).mib(200, 4096).unwrap_err();
            assert!(matches!(refused, NestedError::TooMuchMemory { .. }), "{refused}");
            assert!(refused.to_string().contains("smaller --mem"), "{refused}");
        }
    }
}
