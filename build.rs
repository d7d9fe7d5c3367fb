//! Compiles the XDP programs (bpf/*.bpf.c) with clang, to be embedded in the binary.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const PROGRAMS: [&str; 2] = ["steering", "decapsulate"];
const HEADERS: [&str; 2] = ["program", "counters"];

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    for program in PROGRAMS {
        let source = PathBuf::from(format!("bpf/{program}.bpf.c"));
        println!("cargo::rerun-if-changed={}", source.display());
        compile(&source, &out.join(format!("{program}.bpf.o")));
    }
    for header in HEADERS {
        println!("cargo::rerun-if-changed=bpf/{header}.h");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    // The model checker's build: src/dataplane/flow/interleavings.rs.
    println!("cargo::rerun-if-env-changed=POINTSMAN_LOOM");
    if std::env::var_os("POINTSMAN_LOOM").is_some() {
        println!("cargo::rustc-cfg=pointsman_loom");
    }
}

fn compile(source: &Path, object: &Path) {
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        // Debian keeps asm/types.h in the architecture's own folder, which -target bpf does not search.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{clang} could not compile {}: {status}", source.display())),
        Err(error) => fail(&format!(
            "{clang} cannot be run ({error}); it compiles the XDP program. On Debian: apt-get install clang libc6-dev"
        )),
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
