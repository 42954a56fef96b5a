//! `mmvisor nested setup`: the one place that fetches what the nested machine is made of.
//!
//! QEMU is installed with apt-get, which needs root. The kernel's package is only downloaded and
//! unpacked, which does not. Where apt is not there, the error says what to install by hand.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use super::assets::{
    KERNEL, MANIFEST, Manifest, QEMU, cache_directory, find_program, newest_kernel,
};
use super::modules::{Module, resolve};
use super::{Assets, NestedError};

/// The package that depends on the newest kernel's package.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// The modules behind the machine's streams.
const TRANSPORT: [&str; 2] = ["virtio_pci", "virtio_console"];
/// KVM's.
const KVM: [&str; 1] = ["kvm_amd"];

/// Fetches what is missing, and says what it does line by line. A kernel that is already in the cache
/// stays, and then nothing is asked of the network. Setups at the same time wait for each other.
///
/// `package` is a kernel package (`.deb`) to use instead of the archive's newest.
///
/// # Errors
/// [`NestedError::Setup`] with what failed and what to do, [`NestedError::Cache`] if the cache cannot
/// be written, [`NestedError::NoModule`] if it is another kind of kernel.
pub fn setup(package: Option<&Path>, say: &mut dyn FnMut(&str)) -> Result<Assets, NestedError> {
    let cache = cache_directory()?;
    let cache_error = |source| NestedError::Cache { path: cache.clone(), source };
    fs::create_dir_all(&cache).map_err(cache_error)?;
    let lock = File::create(cache.join(".lock")).map_err(cache_error)?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| cache_error(errno.into()))?;

    let qemu = match find_program(QEMU) {
        Some(qemu) => qemu,
        None => install_qemu(say)?,
    };
    let kernel = match newest_kernel(&cache) {
        Some(kernel) if package.is_none() => kernel,
        _ => fetch_kernel(package, &cache, say)?,
    };
    say(&format!("QEMU: {}", qemu.display()));
    say(&format!("kernel: {}", kernel.display()));
    Ok(Assets { qemu, kernel })
}

/// Installs QEMU's package.
fn install_qemu(say: &mut dyn FnMut(&str)) -> Result<PathBuf, NestedError> {
    let by_hand = |why: &str| NestedError::Setup {
        what: format!("finding {QEMU}"),
        why: format!(
            "{why}; install QEMU's emulator for x86-64 by hand \
             (Debian, Ubuntu: qemu-system-x86; Fedora: qemu-system-x86-core; Arch: qemu-system-x86; \
             Alpine: qemu-system-x86_64), then run this again"
        ),
    };
    if find_program("apt-get").is_none() {
        return Err(by_hand("it is not installed, and there is no apt-get here"));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(by_hand("it is not installed, and only root can install it"));
    }
    say("installing qemu-system-x86");
    with_fresh_lists(say, || {
        // The recommended packages are displays and sound: nothing that is used here.
        apt_get(&["install", "--yes", "--no-install-recommends", "qemu-system-x86"], Path::new("/"))
    })?;
    find_program(QEMU)
        .ok_or_else(|| by_hand("its package was installed, but it is still not in PATH"))
}

/// Makes a kernel's directory in the cache, from the package given or from the archive's newest.
fn fetch_kernel(
    package: Option<&Path>,
    cache: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<PathBuf, NestedError> {
    let staging = Staging::new(cache)?;
    let downloaded;
    let package = match package {
        Some(package) => package,
        None => {
            downloaded = download_kernel(&staging.0, say)?;
            &downloaded
        }
    };
    say(&format!("unpacking {}", package.display()));
    let unpacked = staging.0.join("unpacked");
    run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&unpacked))?;
    let release = only_release(&unpacked, package)?;
    let tree = ["lib/modules", "usr/lib/modules"]
        .map(|modules| unpacked.join(modules).join(&release))
        .into_iter()
        .find(|tree| tree.is_dir())
        .ok_or_else(|| not_a_kernel(package))?;
    let ready = staging.0.join("ready");
    fs::create_dir(&ready).map_err(in_cache(&ready))?;
    let vmlinuz = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    fs::copy(&vmlinuz, ready.join(KERNEL)).map_err(in_cache(&vmlinuz))?;
    let manifest = Manifest {
        transport: keep(&resolve(&tree, &TRANSPORT)?, &ready)?,
        kvm: keep(&resolve(&tree, &KVM)?, &ready)?,
    };
    write_manifest(&manifest, &ready)?;
    publish(&ready, &cache.join(release))
}

/// Moves a finished directory to its place; one that was there before goes.
fn publish(ready: &Path, place: &Path) -> Result<PathBuf, NestedError> {
    if place.exists() {
        // Renamed first, so that at no time half a kernel is at its place.
        let old = ready.with_file_name("old");
        fs::rename(place, &old).map_err(in_cache(place))?;
    }
    fs::rename(ready, place).map_err(in_cache(place))?;
    Ok(place.to_owned())
}

fn write_manifest(manifest: &Manifest, directory: &Path) -> Result<(), NestedError> {
    let path = directory.join(MANIFEST);
    let write = || fs::write(&path, serde_json::to_vec_pretty(manifest)?);
    write().map_err(in_cache(&path))
}

/// Writes the modules into the cache and gives their files' names.
fn keep(modules: &[Module], directory: &Path) -> Result<Vec<String>, NestedError> {
    modules
        .iter()
        .map(|module| {
            let name = format!("{}.ko", module.name);
            let path = directory.join(&name);
            fs::write(&path, &module.image).map_err(in_cache(&path))?;
            Ok(name)
        })
        .collect()
}

/// The release whose kernel an unpacked package has in `boot`.
fn only_release(unpacked: &Path, package: &Path) -> Result<String, NestedError> {
    let entries = fs::read_dir(unpacked.join("boot")).map_err(|_| not_a_kernel(package))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let release = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned)).next();
    release.ok_or_else(|| not_a_kernel(package))
}

fn not_a_kernel(package: &Path) -> NestedError {
    NestedError::Setup {
        what: format!("unpacking {}", package.display()),
        why: format!(
            "it holds no kernel with modules; take the package that {KERNEL_PACKAGE} depends on"
        ),
    }
}

/// Downloads the kernel's package into `directory`.
fn download_kernel(directory: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf, NestedError> {
    if find_program("apt-get").is_none() || find_program("dpkg-deb").is_none() {
        return Err(NestedError::Setup {
            what: "fetching a kernel".to_owned(),
            why: format!(
                "there is no apt here; download the package that Debian's {KERNEL_PACKAGE} depends on \
                 (https://packages.debian.org/stable/{KERNEL_PACKAGE}), install dpkg, \
                 and run `mmvisor nested setup --package FILE.deb`"
            ),
        });
    }
    with_fresh_lists(say, || {
        let listing = run(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
        let package = image_package(&listing).ok_or_else(|| NestedError::Setup {
            what: format!("finding the kernel that {KERNEL_PACKAGE} depends on"),
            why: "apt's lists have none; run `apt-get update` as root, with Debian's main archive configured".to_owned(),
        })?;
        apt_get(&["download", &package], directory)
    })?;
    let mut files = fs::read_dir(directory)
        .map_err(in_cache(directory))?
        .filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| path.extension().is_some_and(|e| e == "deb")).ok_or_else(|| {
        NestedError::Setup {
            what: "downloading the kernel".to_owned(),
            why: "apt-get left no package behind".to_owned(),
        }
    })
}

/// The kernel's own package, from what `apt-cache depends` prints.
fn image_package(listing: &str) -> Option<String> {
    let packages = listing.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    packages.map(str::trim).find(|package| package.starts_with("linux-image-")).map(str::to_owned)
}

/// Does something with apt; if that fails, updates its lists (they are missing on a fresh machine, and
/// stale on an old one) and does it again. Without root the first failure is the answer.
fn with_fresh_lists<T>(
    say: &mut dyn FnMut(&str),
    mut step: impl FnMut() -> Result<T, NestedError>,
) -> Result<T, NestedError> {
    match step() {
        Err(first) if nix::unistd::geteuid().is_root() => {
            log::info!("{first}");
            say("updating apt's lists");
            apt_get(&["update"], Path::new("/"))?;
            step()
        }
        done => done,
    }
}

fn apt_get(arguments: &[&str], directory: &Path) -> Result<String, NestedError> {
    run(Command::new("apt-get")
        // Wait for another installation instead of failing.
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .current_dir(directory))
}

/// Runs a tool and gives its output, in the C locale; its messages are the error's.
fn run(command: &mut Command) -> Result<String, NestedError> {
    let line = {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    };
    let fail = |why: String| NestedError::Setup { what: format!("`{line}`"), why };
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fail(e.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

fn in_cache(path: &Path) -> impl FnOnce(io::Error) -> NestedError {
    let path = path.to_owned();
    move |source| NestedError::Cache { path, source }
}

/// A directory beside the kernels that goes when it is dropped.
#[derive(Debug)]
struct Staging(PathBuf);

impl Staging {
    /// Makes it, and removes what a killed setup has left. The caller holds the cache's lock, so none
    /// of that is in use.
    fn new(cache: &Path) -> Result<Self, NestedError> {
        let path = cache.join(".staging");
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(in_cache(&path)(e)),
            _ => {}
        }
        fs::create_dir(&path).map_err(in_cache(&path))?;
        Ok(Staging(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            log::warn!("removing {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_package_is_the_image_that_the_meta_package_depends_on() {
        let listing = "linux-image-cloud-amd64\n  Depends: linux-base\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Conflicts: x\n";
        assert_eq!(image_package(listing).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(image_package("linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn a_failing_tool_is_named_with_its_message() {
        let error = run(Command::new("ls").arg("/no/such/directory")).unwrap_err().to_string();
        assert!(
            error.contains("`ls /no/such/directory`") && error.contains("No such file"),
            "{error}"
        );
    }

    #[test]
    fn a_finished_kernel_takes_the_place_of_an_old_one() {
        let cache = std::env::temp_dir().join(format!("mmvisor-setup-{}", std::process::id()));
        fs::create_dir_all(&cache).unwrap();
        {
            let staging = Staging::new(&cache).unwrap();
            let ready = staging.0.join("ready");
            for content in ["first", "second"] {
                fs::create_dir(&ready).unwrap();
                fs::write(ready.join("file"), content).unwrap();
                let place = publish(&ready, &cache.join("6.1")).unwrap();
                assert_eq!(fs::read_to_string(place.join("file")).unwrap(), content);
            }
        }
        let left: Vec<_> = fs::read_dir(&cache).unwrap().map(|e| e.unwrap().file_name()).collect();
        fs::remove_dir_all(&cache).unwrap();
        assert_eq!(left, ["6.1"]);
    }
}
