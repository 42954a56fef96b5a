//! Which kernel modules are needed, and in which order they are loaded.
//!
//! `modules.dep` is made by depmod(8) when a kernel package is installed; in one that was only
//! unpacked it is missing. So the dependencies are read from the modules themselves: the string
//! `depends=` in their section `.modinfo` (modinfo(8)).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::NestedError;

/// Suffixes that a module file may have after `.ko`, and the program that undoes each.
const COMPRESSIONS: [(&str, &str); 3] = [("xz", "xz"), ("zst", "zstd"), ("gz", "gzip")];

/// A module as it will be loaded.
#[derive(Debug)]
pub(super) struct Module {
    /// With underscores, as the kernel names it.
    pub(super) name: String,
    /// The ELF file, not compressed.
    pub(super) image: Vec<u8>,
}

/// The modules `roots` of the kernel tree (`lib/modules/RELEASE`) and all they depend on, each after
/// those that it needs. What is built into the kernel is left out.
///
/// # Errors
/// [`NestedError::NoModule`], [`NestedError::File`] for one that cannot be read,
/// [`NestedError::Setup`] for one that cannot be decompressed.
pub(super) fn resolve(tree: &Path, roots: &[&str]) -> Result<Vec<Module>, NestedError> {
    let mut files = HashMap::new();
    collect(&tree.join("kernel"), &mut files)?;
    let builtin = fs::read_to_string(tree.join("modules.builtin")).unwrap_or_default();
    let builtin: Vec<String> =
        builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
    let mut order = Vec::new();
    for root in roots {
        visit(&normalized(root), tree, &files, &builtin, &mut order)?;
    }
    Ok(order)
}

/// Depth first. The kernel's modules have no cycles; a name already on its way ends one all the same,
/// because it is in `order` only after its dependencies, and depth is bounded by the files there are.
fn visit(
    name: &str,
    tree: &Path,
    files: &HashMap<String, PathBuf>,
    builtin: &[String],
    order: &mut Vec<Module>,
) -> Result<(), NestedError> {
    let mut path = vec![(name.to_owned(), None::<Module>)];
    // An explicit stack: a name is opened when first met, and closed when all it needs is loaded.
    while let Some((name, opened)) = path.pop() {
        if let Some(module) = opened {
            order.push(module);
            continue;
        }
        let on_its_way = path.iter().any(|(other, module)| *other == name && module.is_some());
        if on_its_way || builtin.contains(&name) || order.iter().any(|m| m.name == name) {
            continue;
        }
        let missing = || NestedError::NoModule { tree: tree.to_owned(), name: name.clone() };
        let image = read(files.get(&name).ok_or_else(missing)?)?;
        let needs = depends(&image);
        path.push((name.clone(), Some(Module { name, image })));
        path.extend(needs.into_iter().map(|need| (need, None)));
    }
    Ok(())
}

/// All module files below a directory, by name.
fn collect(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<(), NestedError> {
    let file_error = |source| NestedError::File { path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(file_error)? {
        let entry = entry.map_err(file_error)?;
        let path = entry.path();
        if entry.file_type().map_err(file_error)?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `kvm_amd` of `kernel/arch/x86/kvm/kvm-amd.ko.xz`; `None` if it is no module.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (stem, suffix) = file.split_once(".ko")?;
    let suffix = suffix.strip_prefix('.').unwrap_or(suffix);
    let known = suffix.is_empty() || COMPRESSIONS.iter().any(|(s, _)| *s == suffix);
    known.then(|| normalized(stem))
}

fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

/// A module's image, decompressed if the file is compressed.
fn read(path: &Path) -> Result<Vec<u8>, NestedError> {
    let suffix = path.extension().unwrap_or_default();
    let Some((_, program)) = COMPRESSIONS.iter().find(|(s, _)| suffix == *s) else {
        return fs::read(path)
            .map_err(|source| NestedError::File { path: path.to_owned(), source });
    };
    let fail = |why: String| NestedError::Setup {
        what: format!("`{program} -dc {}`", path.display()),
        why,
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fail(e.to_string()))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// The names in a module's `depends=`.
fn depends(image: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = image.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = image[at + KEY.len()..].split(|&b| b == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(normalized).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel tree whose modules are nothing but their dependencies.
    fn tree(name: &str, modules: &[(&str, &str)]) -> PathBuf {
        let tree =
            std::env::temp_dir().join(format!("mmvisor-modules-{}-{name}", std::process::id()));
        for (path, depends) in modules {
            let path = tree.join("kernel").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0")).unwrap();
        }
        fs::write(tree.join("modules.builtin"), "kernel/lib/crc-core.ko\n").unwrap();
        tree
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|m| m.name.as_str()).collect()
    }

    #[test]
    fn a_module_is_loaded_after_all_it_depends_on_and_once() {
        let tree = tree(
            "order",
            &[
                ("a/top-one.ko", "left,right"),
                ("b/left.ko", "base"),
                ("b/right.ko", "base,crc_core"),
                ("base.ko", ""),
            ],
        );
        let order = resolve(&tree, &["top-one", "left"]).unwrap();
        fs::remove_dir_all(tree).unwrap();
        let names = names(&order);
        let place = |name| names.iter().position(|n| *n == name).unwrap();
        assert_eq!(names.len(), 4);
        assert!(place("base") < place("left") && place("base") < place("right"));
        assert_eq!(names[3], "top_one");
    }

    #[test]
    fn a_module_that_is_not_there_is_named_and_a_built_in_one_is_not_missed() {
        let tree = tree("missing", &[("a.ko", "crc-core,gone")]);
        let error = resolve(&tree, &["a"]).unwrap_err();
        fs::remove_dir_all(tree).unwrap();
        assert!(matches!(error, NestedError::NoModule { name, .. } if name == "gone"));
    }

    #[test]
    fn modules_that_need_each_other_do_not_hang() {
        let tree = tree("cycle", &[("a.ko", "b"), ("b.ko", "a")]);
        let order = resolve(&tree, &["a"]).unwrap();
        fs::remove_dir_all(tree).unwrap();
        assert_eq!(names(&order), ["b", "a"]);
    }

    #[test]
    fn a_compressed_module_has_the_same_name() {
        assert_eq!(module_name(Path::new("x/kvm-amd.ko.xz")).as_deref(), Some("kvm_amd"));
        assert_eq!(module_name(Path::new("x/kvm-amd.ko")).as_deref(), Some("kvm_amd"));
        assert_eq!(module_name(Path::new("x/modules.order")), None);
    }
}
