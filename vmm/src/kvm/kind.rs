//! Which KVM this is. They differ in what is visible when and in what ring 0 may do (KVM.md).

use std::fmt;
use std::fs;
use std::path::Path;

use crate::boot::CallPort;

/// How this KVM translates the guest's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Software KVM (module `kvm_pvm`): ring 3 runs natively, ring 0 is interpreted, shadow paging.
    Soft,
    /// Intel's extended page tables.
    Ept,
    /// AMD's nested page tables.
    Npt,
    /// Shadow paging on VMX or SVM.
    Shadow,
    /// None of these could be told; treated with what is right on all of them.
    Unknown,
}

impl Kind {
    /// Asks the modules' parameters in `/sys/module`.
    #[must_use]
    pub fn detect() -> Kind {
        Kind::from_modules(Path::new("/sys/module"))
    }

    fn from_modules(modules: &Path) -> Kind {
        let two_dimensional = |module: &str, parameter: &str, kind| {
            let value = fs::read_to_string(modules.join(module).join("parameters").join(parameter));
            match value.as_deref().map(str::trim) {
                Ok("Y" | "1") => Some(kind),
                Ok("N" | "0") => Some(Kind::Shadow),
                _ => None,
            }
        };
        let hardware = [
            two_dimensional("kvm_intel", "ept", Kind::Ept),
            two_dimensional("kvm_amd", "npt", Kind::Npt),
        ];
        let software = modules.join("kvm_pvm").exists().then_some(Kind::Soft);
        // More than one vendor module may be loaded, and only one of them serves the device.
        let mut candidates = hardware.into_iter().chain([software]).flatten();
        match (candidates.next(), candidates.next()) {
            (Some(kind), None) => kind,
            _ => Kind::Unknown,
        }
    }

    /// Whether ring 3 must be able to write the call port. Where this is not known it may: the host
    /// takes such an `out` for a call only from the stub, and the program may call anyway.
    #[must_use]
    pub fn call_port(self) -> CallPort {
        match self {
            Kind::Soft | Kind::Unknown => CallPort::UserMayWrite,
            Kind::Ept | Kind::Npt | Kind::Shadow => CallPort::KernelOnly,
        }
    }

    /// The kernel module that serves it, if that is certain.
    #[must_use]
    pub fn module(self) -> Option<&'static str> {
        match self {
            Kind::Soft => Some("kvm_pvm"),
            Kind::Ept => Some("kvm_intel"),
            Kind::Npt => Some("kvm_amd"),
            Kind::Shadow => ["kvm_intel", "kvm_amd"]
                .into_iter()
                .find(|m| Path::new("/sys/module").join(m).exists()),
            Kind::Unknown => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Soft => "SOFT (software KVM, shadow paging)",
            Kind::Ept => "EPT (Intel, two-dimensional paging)",
            Kind::Npt => "NPT (AMD, two-dimensional paging)",
            Kind::Shadow => "shadow paging",
            Kind::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_modules(name: &str, files: &[(&str, &str)]) -> Kind {
        let root = std::env::temp_dir().join(format!("mmvisor-kind-{}-{name}", std::process::id()));
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let kind = Kind::from_modules(&root);
        let _ = fs::remove_dir_all(&root);
        kind
    }

    #[test]
    fn the_modules_parameters_tell_the_kind() {
        assert_eq!(with_modules("ept", &[("kvm_intel/parameters/ept", "Y\n")]), Kind::Ept);
        assert_eq!(with_modules("npt", &[("kvm_amd/parameters/npt", "1\n")]), Kind::Npt);
        assert_eq!(with_modules("shadow", &[("kvm_amd/parameters/npt", "N\n")]), Kind::Shadow);
        assert_eq!(with_modules("soft", &[("kvm_pvm/parameters/stats", "0\n")]), Kind::Soft);
    }

    #[test]
    fn no_module_or_two_of_them_is_unknown() {
        assert_eq!(with_modules("none", &[]), Kind::Unknown);
        let both = [("kvm_pvm/parameters/stats", "0\n"), ("kvm_amd/parameters/npt", "Y\n")];
        assert_eq!(with_modules("both", &both), Kind::Unknown);
    }
}
