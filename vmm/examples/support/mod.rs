//! What the examples share: a program from its file to its end, through the library.

use std::error::Error;
use std::ffi::CString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use vmm::files::{Descriptors, Paths};
use vmm::hypercall::{TraceTarget, Tracer};
use vmm::kvm::FlushPolicy;
use vmm::load::Image;
use vmm::machine::{Machine, MachineConfig};
use vmm::task::{End, Family, Identity, Launch, Task, Timing, exec};

/// What goes wrong ends an example with its sentence.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// A program at its first instruction.
#[derive(Debug)]
pub struct Program {
    pub machine: Arc<Machine>,
    pub task: Task,
    family: Arc<Family>,
}

impl Program {
    /// Loads a program into a machine of so many bytes of memory. The first argument is its file.
    pub fn load(arguments: &[String], memory: u64) -> Outcome<Program> {
        let path = Path::new(arguments.first().ok_or("there is no program")?);
        let flush = FlushPolicy::of_environment();
        let machine = Arc::new(Machine::new(MachineConfig { memory, flush, nodes: 1 })?);
        let image = Image::open(path)?;
        let argv: Vec<CString> =
            arguments.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>()?;
        let launch = Launch::on(&machine);
        let loaded = exec(machine.system(), &image, path, &argv, &[], &launch)?;
        let executable = path.display().to_string();
        let identity = Identity::new(&argv[0], executable, Arc::clone(&image.file), launch);
        let tracer = Tracer::new(&TraceTarget::Off, &[])?;
        let family = Family::new(Arc::clone(&machine), tracer, Timing::Off)?;
        let task = family.first(loaded, Descriptors::default(), Paths::default(), identity)?;
        Ok(Program { machine, task, family })
    }

    /// Runs it to its end, and takes its memory apart. Gives the status that a shell would show.
    pub fn run(mut self) -> Outcome<ExitCode> {
        let ended = self.task.run();
        self.family.close()?;
        let status = match ended? {
            End::Exited(status) => status,
            End::Killed(death) => {
                eprintln!("{death}");
                death.status()
            }
        };
        let process = Arc::clone(self.task.process());
        mm::inspect::audit(&process.space.look())?;
        self.machine.give_back(self.task.into_vcpu());
        if let Some(process) = Arc::into_inner(process) {
            process.space.put()?;
        }
        Ok(ExitCode::from(status))
    }
}

/// What an example ends with.
pub fn end(done: Outcome<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(125)
    })
}
