//! The nested machine as a caller sees it: say which kind, what files it holds, and what to run.

use std::io::Seek;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::initramfs::Initramfs;
use super::qemu::memory_file;
use super::session::Session;
use super::wire::{DESCRIPTION_PATH, Description, JobDescription, MODULES_PATH};
use super::{Assets, Input, Job, JobResult, Kind, NestedError, Outcome, Streams};

/// The machine's memory unless said otherwise, in MiB.
pub const DEFAULT_MEMORY_MIB: u32 = 1024;
/// Where mmvisor's own executable is in the machine: a job that runs mmvisor names this.
pub const GUEST_EXECUTABLE: &str = "/init";

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
    memory_mib: u32,
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
            memory_mib: DEFAULT_MEMORY_MIB,
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
        self.memory_mib = memory_mib;
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
    /// Whatever is wrong around the jobs. The results of the jobs before are then lost.
    pub fn run_jobs(&self, mut jobs: Vec<Job>) -> Result<Vec<JobResult>, NestedError> {
        let inputs: Vec<Input> =
            jobs.iter_mut().map(|job| std::mem::take(&mut job.stdin)).collect();
        let mut session = self.start(&jobs)?;
        let run = |input| {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            let mut streams = Streams { stdout: &mut stdout, stderr: &mut stderr };
            let outcome = session.run(input, &mut streams)?;
            Ok(JobResult { outcome, stdout, stderr })
        };
        inputs.into_iter().map(run).collect()
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
        let needed_mib = (size >> 20).saturating_mul(2) + 192;
        if u64::from(self.memory_mib) < needed_mib {
            return Err(NestedError::TooLittleMemory { memory_mib: self.memory_mib, needed_mib });
        }
        Session::start(&assets, self.memory_mib, &executable, &archive, self.limit)
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
