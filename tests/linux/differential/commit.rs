//! The commit limit, compared with the kernel of a nested machine: there the settings can be changed, and
//! nobody else uses memory meanwhile.
//!
//! After each act both sides have promised as many pages more. What is refused is compared too, although a
//! kernel counts in batches, one a processor, and so knows its own sum but roughly: everything large is a
//! multiple of [`UNIT`], the limit lies between two of them, and our side does each act three times, with
//! the limit as it is and at both ends of that doubt. Where the three differ the sequence ends.

use guest::random::Random;
use guest::script::Arg;
use libtest_mimic::Failed;
use mm::addr::{PAGE_SIZE as PAGE, VirtAddr};
use mm::replay::calls::MemoryCall as M;
use mm::rules::Rule;

use super::act::{Act, Deed, Open};
use super::model::{Model, Result as Outcome, Start};
use super::run::result_of;
use crate::oracle::Oracle;
use crate::script::{Answer, Script};

/// Pages of which all large things are multiples.
const UNIT: u64 = 4096;
/// How far a kernel with two processors and 1 GiB may be off, in pages: `vm_committed_as_batch` is a 256th
/// of a processor's share of memory in mode 2, which is 512.
const DOUBT: u64 = 1100;
/// Where maps are made.
const A: u64 = 0x100_0000_0000;
/// Acts in a sequence, unless it ends before.
const LENGTH: usize = 80;
/// Sequences.
const SEQUENCES: u64 = 96;
/// How many acts must have been compared at least.
const LEAST: u64 = 3000;
/// How many maps and forks must have been refused for want of memory under each setting that refuses anything.
const LEAST_REFUSED: usize = 10;
/// The descriptor of /proc/meminfo in process 0.
const MEMINFO: u64 = 3;
/// The memfd's.
const MEMFD: i32 = 4;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const ENOMEM: i32 = 12;

type Result<T> = std::result::Result<T, Failed>;

/// What /proc/meminfo says, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Memory {
    total: u64,
    limit: u64,
    committed: u64,
}

impl Memory {
    fn of(answer: &Answer) -> Result<Self> {
        let Answer::Result { value: Ok(length), outputs } = answer else {
            return Err(format!("reading /proc/meminfo: {answer:?}").into());
        };
        let length = usize::try_from(*length)?;
        let bytes = outputs.first().and_then(|bytes| bytes.get(..length)).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes);
        let pages = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            Ok(kib.ok_or_else(|| format!("no {name} in {text}"))?.parse::<u64>()? / 4)
        };
        if pages("SwapTotal:")? != 0 {
            return Err("the nested machine has swap".into());
        }
        let (total, limit) = (pages("MemTotal:")?, pages("CommitLimit:")?);
        Ok(Memory { total, limit, committed: pages("Committed_AS:")? })
    }
}

/// Adds the opening of /proc/meminfo, which becomes [`MEMINFO`].
fn open_meminfo(script: &mut Script) {
    const OPEN: u64 = 2;
    script.call_of(0, OPEN, &[Arg::In(b"/proc/meminfo\0"), Arg::Value(0)]);
}

/// Adds the reading of it.
fn read_meminfo(script: &mut Script) -> usize {
    const PREAD: u64 = 17;
    let length = 4096_u32;
    let args = [Arg::Value(MEMINFO), Arg::Out(length), Arg::Value(length.into()), Arg::Value(0)];
    script.call_of(0, PREAD, &args)
}

/// Changes settings of the nested machine, and says what its memory is then.
fn configure(oracle: &mut Oracle, settings: &[(&'static str, u64)]) -> Result<Memory> {
    const OPEN: u64 = 2;
    const WRITE: u64 = 1;
    const CLOSE: u64 = 3;
    const WRONLY: u64 = 1;
    let mut script = Script::new();
    let mut written = Vec::new();
    for (name, value) in settings {
        let path = format!("/proc/sys/{}\0", name.replace('.', "/"));
        let text = value.to_string();
        script.call_of(0, OPEN, &[Arg::In(path.as_bytes()), Arg::Value(WRONLY)]);
        let args = [Arg::Value(MEMINFO), Arg::In(text.as_bytes()), Arg::Value(text.len() as u64)];
        written.push((script.call_of(0, WRITE, &args), text.len() as u64));
        script.call_of(0, CLOSE, &[Arg::Value(MEMINFO)]);
    }
    open_meminfo(&mut script);
    let memory = read_meminfo(&mut script);
    let answers = oracle.run(&script)?;
    for ((step, length), setting) in written.into_iter().zip(settings) {
        if !matches!(answers[step], Answer::Result { value: Ok(wrote), .. } if wrote == length) {
            return Err(format!("setting {setting:?}: {:?}", answers[step]).into());
        }
    }
    Memory::of(&answers[memory])
}

/// What is compared of a run of acts: each outcome, and how many pages more are promised then.
type Steps = Vec<(Outcome, i64)>;

fn more(committed: u64, base: u64) -> i64 {
    committed.cast_signed() - base.cast_signed()
}

/// Our side.
struct Ours {
    model: Model,
    base: u64,
}

impl Ours {
    fn new(start: &Start) -> Result<Self> {
        let model = Model::new(start)?;
        let base = model.committed();
        Ok(Ours { model, base })
    }

    fn perform(&mut self, act: &Act) -> Result<(Outcome, i64)> {
        let outcome = self.model.perform(act)?;
        self.model.audit(act.process)?;
        Ok((outcome, more(self.model.committed(), self.base)))
    }
}

/// Does the acts in the nested machine. Where both sides differ, says so.
fn differ(oracle: &mut Oracle, acts: &[Act], ours: &Steps) -> Result<Option<String>> {
    let mut script = Script::new();
    open_meminfo(&mut script);
    let before = read_meminfo(&mut script);
    let steps: Vec<(usize, usize)> =
        acts.iter().map(|act| (act.add_to(&mut script), read_meminfo(&mut script))).collect();
    let answers = oracle.run(&script)?;
    let base = Memory::of(&answers[before])?.committed;
    for ((act, (outcome, promised)), (step, memory)) in acts.iter().zip(ours).zip(steps) {
        let theirs = result_of(&answers[step], outcome)?;
        let memory = more(Memory::of(&answers[memory])?.committed, base);
        if theirs != *outcome || memory != *promised {
            return Ok(Some(format!(
                "{act}: Linux answers {theirs:x?} and has promised {memory} pages more, \
                 we answer {outcome:x?} and have promised {promised}"
            )));
        }
    }
    Ok(None)
}

/// Rules that kernels older than 6.18 may lack, with acts that show it: the nested machine's does not
/// matter otherwise.
fn probes() -> [(Rule, Vec<Deed>); 2] {
    let map = |unit: u64, prot| mmap(unit, 1, prot, 0x22, -1);
    let uncharge = vec![map(0, 3), call(M::Mprotect { addr: at(0), len: UNIT * PAGE, prot: 1 })];
    let several = vec![map(0, 3), map(1, 1), remap(0, 2, 2, 3, 8)];
    [(Rule::Uncharge, uncharge), (Rule::SeveralMove, several)]
}

fn at(unit: u64) -> VirtAddr {
    VirtAddr::new(A + unit * UNIT * PAGE)
}

fn call(call: M) -> Deed {
    Deed::Call(call)
}

/// Maps units where nothing is: kernels before 6.12 gave back what a map replaces before they promised.
fn mmap(unit: u64, units: u64, prot: u64, flags: u64, fd: i32) -> Deed {
    const FIXED_NOREPLACE: u64 = 0x10_0000;
    let (addr, len, flags) = (at(unit), units * UNIT * PAGE, flags | FIXED_NOREPLACE);
    call(M::Mmap { addr, len, prot, flags, fd, offset: 0 })
}

fn remap(unit: u64, old: u64, new: u64, flags: u64, to: u64) -> Deed {
    let (old_len, new_len) = (old * UNIT * PAGE, new * UNIT * PAGE);
    call(M::Mremap { addr: at(unit), old_len, new_len, flags, new_addr: at(to) })
}

/// How a sequence's machine is set, beside the mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Setting {
    /// Mode 0.
    Guess,
    /// Mode 1.
    Always,
    /// Mode 2: a size.
    Size,
    /// Mode 2: a share of all memory.
    Share,
    /// Mode 2 with a reserve for the administrator, who some processes are not.
    Administrator,
    /// Mode 2 with a reserve for other users.
    Users,
}

const SETTINGS: [Setting; 6] = [
    Setting::Guess,
    Setting::Always,
    Setting::Size,
    Setting::Share,
    Setting::Administrator,
    Setting::Users,
];

impl Setting {
    /// The settings, when the machine has this memory.
    fn values(self, memory: Memory) -> Vec<(&'static str, u64)> {
        let mode = match self {
            Setting::Guess => 0,
            Setting::Always => 1,
            _ => 2,
        };
        let reserve = |own, units: u64| if self == own { units * UNIT * 4 } else { 0 };
        // Between two multiples of a unit above what is promised already.
        let limit = match self {
            Setting::Share => {
                let middle = |percent: &u64| {
                    let above = (memory.total * percent / 100).saturating_sub(memory.committed);
                    above > 8 * UNIT && (above % UNIT).abs_diff(UNIT / 2) < UNIT / 2 - DOUBT
                };
                ("vm.overcommit_ratio", (20..100).find(middle).unwrap_or(50))
            }
            _ => ("vm.overcommit_kbytes", (memory.committed + 20 * UNIT + UNIT / 2) * 4),
        };
        vec![
            limit,
            ("vm.admin_reserve_kbytes", reserve(Setting::Administrator, 3)),
            ("vm.user_reserve_kbytes", reserve(Setting::Users, 8)),
            ("vm.overcommit_memory", mode),
        ]
    }
}

/// Makes acts at random.
struct Generator {
    random: Random,
    setting: Setting,
    alive: Vec<u8>,
    processes: u8,
    /// How many targets of moves there were.
    targets: u64,
}

impl Generator {
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.random.below(of.len() as u64)).unwrap_or(0)]
    }

    /// Where nothing ever was, to move something there: older kernels look later whether it overlaps, and
    /// unmap what is there even if nothing comes.
    fn target(&mut self) -> u64 {
        self.targets += 1;
        200 * self.targets
    }

    fn act(&mut self, ours: &Model) -> Act {
        let alive = self.alive.clone();
        let process = self.pick(&alive);
        Act { process, deed: self.deed(ours, process) }
    }

    fn deed(&mut self, ours: &Model, process: u8) -> Deed {
        // In mode 0 it is a single map that is too large.
        let most = if self.setting == Setting::Guess { 90 } else { 7 };
        let (unit, units) = (self.random.below(40), 1 + self.random.below(most));
        let prot = self.pick(&[3, 3, 3, 1, 0]);
        let noreserve = if self.random.chance(20) { 0x4000 } else { 0 };
        let len = units * UNIT * PAGE;
        match self.random.below(24) {
            0..=5 => mmap(unit, units, prot, 0x22 | noreserve, -1),
            6..=8 => mmap(unit, units, prot, 0x21 | noreserve, -1),
            9 => mmap(unit, 1, prot, self.pick(&[1, 2]), MEMFD),
            10..=12 => call(M::Munmap { addr: at(unit), len }),
            13..=15 => call(M::Mprotect { addr: at(unit), len, prot }),
            16 => {
                let (new, to) = (units + 1 + self.random.below(4), self.target());
                remap(unit, units, new, self.pick(&[0, 3]), to)
            }
            17 => {
                let to = self.target();
                remap(unit, units, units, self.pick(&[3, 7]), to)
            }
            18 | 19 => {
                let heap = ours.brk(process).unwrap_or(0);
                let step = self.random.below(4) * UNIT * PAGE;
                let addr =
                    if self.random.chance(60) { heap + step } else { heap.saturating_sub(step) };
                call(M::Brk { addr: VirtAddr::new(addr) })
            }
            20 if self.processes < 5 => Deed::Fork(self.processes),
            21 if process != 0 => Deed::Exit,
            20 | 21 if self.setting == Setting::Administrator => {
                Deed::DropCapabilities(CAP_SYS_ADMIN)
            }
            _ => Deed::Store(at(unit).get() + self.random.below(8) * PAGE, 1),
        }
    }

    fn note(&mut self, act: &Act, outcome: &Outcome) {
        match act.deed {
            Deed::Fork(child) if matches!(outcome, Outcome::Value(_)) => {
                self.alive.push(child);
                self.processes += 1;
            }
            // The number cannot be used again.
            Deed::Fork(_) => self.processes += 1,
            Deed::Exit => self.alive.retain(|&process| process != act.process),
            _ => {}
        }
    }
}

/// Makes a sequence, and what comes of it on our side.
fn sequence(seed: u64, setting: Setting, starts: &[Start; 3]) -> Result<(Vec<Act>, Steps)> {
    let mut generator =
        Generator { random: Random::new(seed), setting, alive: vec![0], processes: 1, targets: 0 };
    let [low, exact, high] = starts;
    let (mut low, mut exact, mut high) = (Ours::new(low)?, Ours::new(exact)?, Ours::new(high)?);
    let (mut acts, mut steps) = (Vec::new(), Vec::new());
    let mut first = vec![Deed::Open(MEMFD, Open::Memfd(UNIT))];
    if setting == Setting::Users {
        // Promises nothing, but of what is mapped a 32nd is kept for others: 4 units, or all 8.
        first.push(mmap(100_000, generator.pick(&[128, 512]), 0, 0x22, -1));
    }
    while acts.len() < LENGTH {
        let first = first.pop().map(|deed| Act { process: 0, deed });
        let act = first.unwrap_or_else(|| generator.act(&exact.model));
        let step = exact.perform(&act)?;
        if low.perform(&act)? != step || high.perform(&act)? != step {
            break;
        }
        generator.note(&act, &step.0);
        acts.push(act);
        steps.push(step);
    }
    Ok((acts, steps))
}

/// The three machines that our side is: with the kernel's limit, and at the ends of the doubt.
fn machines(start: &Start, memory: Memory, values: &[(&'static str, u64)]) -> Result<[Start; 3]> {
    let ours = Ours::new(start)?.base;
    let limit = |pages: u64| {
        // What is promised outside of the player is not known here: it is taken off the limit.
        let size = (pages - memory.committed + ours) * 4;
        start.clone().set(values).set(&[("vm.overcommit_kbytes", size)])
    };
    Ok([limit(memory.limit - DOUBT), limit(memory.limit), limit(memory.limit + DOUBT)])
}

/// Whether it is memory that was refused: other calls say `ENOMEM` of a hole as well.
fn is_refusal(act: &Act, (outcome, _): &(Outcome, i64)) -> bool {
    matches!(act.deed, Deed::Fork(_) | Deed::Call(M::Mmap { .. }))
        && *outcome == Outcome::Errno(ENOMEM)
}

/// Compares sequences under every setting.
pub fn compare() -> Result<()> {
    let mut oracle = Oracle::nested()?;
    let memory = configure(&mut oracle, &[("vm.overcommit_memory", 1)])?;
    let mut start = Start::of(&mut oracle)?.on_machine(memory.total);
    for (rule, deeds) in probes() {
        let acts: Vec<Act> = deeds.into_iter().map(|deed| Act { process: 0, deed }).collect();
        let mut ours = Ours::new(&start)?;
        let steps = acts.iter().map(|act| ours.perform(act)).collect::<Result<Steps>>()?;
        if differ(&mut oracle, &acts, &steps)?.is_some() {
            println!("the nested machine's kernel has no rule {rule:?}");
            start = start.without(rule);
        }
    }
    let (mut compared, mut refused) = (0, [0; SETTINGS.len()]);
    for seed in 0..SEQUENCES {
        let which = usize::try_from(seed)? % SETTINGS.len();
        let setting = SETTINGS[which];
        let values = setting.values(memory);
        let now = configure(&mut oracle, &values)?;
        let limit = Model::new(&start.clone().set(&values))?.commit_limit();
        if limit != now.limit {
            return Err(format!("{values:?}: the limit is {}, ours {limit}", now.limit).into());
        }
        let (acts, steps) = sequence(seed, setting, &machines(&start, now, &values)?)?;
        if let Some(difference) = differ(&mut oracle, &acts, &steps)? {
            let listing: String = acts.iter().map(|act| format!("{act}\n")).collect();
            return Err(format!("seed {seed}, {setting:?}:\n{listing}{difference}").into());
        }
        compared += acts.len() as u64;
        refused[which] +=
            acts.iter().zip(&steps).filter(|(act, step)| is_refusal(act, step)).count();
    }
    let summary = format!("{compared} acts compared; refused for want of memory {refused:?} of");
    println!("{summary} {SETTINGS:?}");
    let enough = |(setting, &refused): (&Setting, &usize)| match setting {
        Setting::Always => refused == 0,
        _ => refused >= LEAST_REFUSED,
    };
    if compared < LEAST || !SETTINGS.iter().zip(&refused).all(enough) {
        return Err(format!("too few: {summary} {SETTINGS:?}").into());
    }
    Ok(())
}
