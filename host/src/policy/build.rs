//! `rollcall policy build`: from a Rust crate to a component.
//!
//! Cargo compiles the crate for `wasm32-unknown-unknown`, which has no system interface and so needs none; the result
//! is encoded as a component and loaded once in the sandbox, which decides whether it is valid.
//!
//! With `--into` the components are written to one directory with a manifest of their sources and toolchain. The
//! built-in policies are kept in the repository in this way: committed, because a user's machine may have no
//! WebAssembly toolchain; and verifiable, because the build is reproducible.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use ::policy::{Module, Sandbox, SandboxConfig};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::output::{self, Output};

const TARGET: &str = "wasm32-unknown-unknown";

#[derive(Args)]
pub struct BuildArgs {
    /// Directories of the crates to build.
    #[arg(default_value = ".")]
    crates: Vec<PathBuf>,
    /// Where to put the component [default: NAME.wasm in the crate].
    #[arg(long, value_name = "FILE", conflicts_with = "into")]
    out: Option<PathBuf>,
    /// Put all components and a manifest into this directory.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Write nothing: fail if what the directory holds is not what these crates build to.
    #[arg(long, requires = "into")]
    check: bool,
    /// With --check: compare the sources with the manifest, but do not build.
    #[arg(long, requires = "check")]
    no_compile: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The file `manifest.json` that `--into` writes beside the components.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    /// `rustc --version` of the compiler. Another version produces other bytes from the same sources.
    toolchain: String,
    components: BTreeMap<String, Built>,
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Built {
    /// Digest of the component.
    sha256: String,
    /// Digest of all its inputs: its crate, the crates it uses by path, the contract, and the locked versions of the
    /// other dependencies.
    sources_sha256: String,
}

pub fn run(args: BuildArgs) -> Result<ExitCode> {
    let BuildArgs { crates, out, into, check, no_compile, output } = args;
    let crates = crates.iter().map(|dir| Crate::at(dir)).collect::<Result<Vec<_>>>()?;
    let Some(into) = into else {
        if out.is_some() && crates.len() > 1 {
            bail!("--out names one file, but there are {} crates; use --into", crates.len());
        }
        let toolchain = Toolchain::find()?;
        for krate in &crates {
            let component = krate.build(&toolchain)?;
            let path = out.clone().unwrap_or_else(|| krate.directory.join(format!("{}.wasm", krate.name)));
            let module = load(&component)?;
            fs::write(&path, &component).with_context(|| format!("cannot write {}", path.display()))?;
            let names: Vec<&str> = module.policies.iter().map(|policy| policy.name.as_str()).collect();
            match output {
                Output::Json => output::json(&json!({
                    "component": path, "sizeBytes": component.len(), "digest": module.digest, "policies": names
                }))?,
                Output::Table => {
                    output::line(format_args!(
                        "{}: {} bytes, {}",
                        path.display(),
                        component.len(),
                        names.join(", ")
                    ))?;
                }
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    if check { check_against(&crates, &into, no_compile) } else { build_into(&crates, &into, output) }
}

fn build_into(crates: &[Crate], into: &Path, output: Output) -> Result<ExitCode> {
    let toolchain = Toolchain::find()?;
    let mut components = BTreeMap::new();
    for krate in crates {
        let component = krate.build(&toolchain)?;
        load(&component)?;
        let path = into.join(format!("{}.wasm", krate.name));
        fs::write(&path, &component).with_context(|| format!("cannot write {}", path.display()))?;
        output::tell(format_args!("{}: {} bytes", path.display(), component.len()));
        let built = Built { sha256: sha256(&component), sources_sha256: krate.sources_sha256()? };
        components.insert(krate.name.clone(), built);
    }
    let manifest = Manifest { toolchain: toolchain.version, components };
    let path = into.join("manifest.json");
    let text = serde_json::to_string_pretty(&manifest)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    if output == Output::Json {
        output::json(&manifest)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check_against(crates: &[Crate], into: &Path, no_compile: bool) -> Result<ExitCode> {
    let path = into.join("manifest.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: Manifest = serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    let mut stale = Vec::new();
    let wanted: BTreeSet<String> = crates.iter().map(|krate| krate.name.clone()).collect();
    let recorded: BTreeSet<String> = manifest.components.keys().cloned().collect();
    let mut present = BTreeSet::new();
    for entry in fs::read_dir(into).with_context(|| format!("cannot read {}", into.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        present.extend(name.strip_suffix(".wasm").map(str::to_string));
    }
    if wanted != recorded || wanted != present {
        stale.push(format!(
            "the crates are {wanted:?}, the manifest has {recorded:?}, the directory {present:?}"
        ));
    }
    for krate in crates {
        let name = &krate.name;
        let Some(recorded) = manifest.components.get(name) else {
            stale.push(format!("{name} is not in the manifest"));
            continue;
        };
        let file = into.join(format!("{name}.wasm"));
        let committed = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if sha256(&committed) != recorded.sha256 {
            stale.push(format!("{} is not the file that the manifest describes", file.display()));
        }
        if krate.sources_sha256()? != recorded.sources_sha256 {
            stale.push(format!("the sources of {name} have changed since it was built"));
        }
    }
    if stale.is_empty() && !no_compile {
        let toolchain = Toolchain::find()?;
        let same = toolchain.version == manifest.toolchain;
        for krate in crates {
            let name = &krate.name;
            let component = krate.build(&toolchain)?;
            load(&component)?;
            match (same, sha256(&component) == manifest.components[name].sha256) {
                (_, true) => output::line(format_args!("{name}: rebuilt, the bytes are identical"))?,
                (true, false) => stale.push(format!("{name}: the same toolchain built other bytes")),
                (false, false) => output::line(format_args!(
                    "{name}: built by {}, rebuilt by {}: bytes differ, as they may",
                    manifest.toolchain, toolchain.version
                ))?,
            }
        }
    }
    if stale.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let command = format!("rollcall policy build --into {}", into.display());
    output::tell(format_args!("rollcall: {}\nRebuild with `{command} CRATE...`.", stale.join("\n")));
    Ok(ExitCode::FAILURE)
}

/// The sandbox decides whether the component is valid.
fn load(component: &[u8]) -> Result<Module> {
    let sandbox = Sandbox::new(SandboxConfig::default())?;
    sandbox.load(component).context("it was built, but the sandbox refuses it")
}

/// A crate that builds to a policy module.
struct Crate {
    name: String,
    directory: PathBuf,
    workspace: PathBuf,
    target_directory: PathBuf,
}

impl Crate {
    fn at(directory: &Path) -> Result<Crate> {
        let manifest = directory.join("Cargo.toml");
        if !manifest.is_file() {
            bail!(
                "{} has no Cargo.toml; `rollcall policy new` makes a crate for a policy",
                directory.display()
            );
        }
        let output = Command::new("cargo")
            .args(["metadata", "--format-version=1", "--no-deps", "--manifest-path"])
            .arg(&manifest)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo; it comes with Rust")?;
        if !output.status.success() {
            bail!("cargo cannot read {}", manifest.display());
        }
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).context("cannot read cargo's metadata")?;
        let manifest = manifest.canonicalize()?;
        let package = metadata
            .packages
            .into_iter()
            .find(|package| package.manifest_path == manifest)
            .ok_or_else(|| anyhow!("{} is no package", manifest.display()))?;
        if !package.targets.iter().any(|target| target.crate_types.iter().any(|ty| ty == "cdylib")) {
            bail!("{}: add `crate-type = [\"cdylib\", \"rlib\"]` under [lib]", manifest.display());
        }
        Ok(Crate {
            name: package.name,
            directory: directory.to_path_buf(),
            workspace: metadata.workspace_root,
            target_directory: metadata.target_directory,
        })
    }

    /// The component's bytes.
    fn build(&self, toolchain: &Toolchain) -> Result<Vec<u8>> {
        output::tell(format_args!("Building {} with {}", self.name, toolchain.version));
        let mut cargo = Command::new("cargo");
        cargo
            .args([
                "build",
                "--release",
                "--lib",
                "--target",
                TARGET,
                "--message-format=json-render-diagnostics",
            ])
            .args(["--package", &self.name, "--manifest-path"])
            .arg(self.directory.join("Cargo.toml"))
            // A separate directory: another compiler must not invalidate the host's build.
            .arg("--target-dir")
            .arg(self.target_directory.join("policies"))
            .stderr(Stdio::inherit())
            // Settings of the machine's Cargo configuration would make the build differ between machines. This
            // variable, even empty, takes precedence over configuration files.
            .env("CARGO_ENCODED_RUSTFLAGS", "")
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
            .env("CARGO_PROFILE_RELEASE_LTO", "fat")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "none")
            .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
            .env("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all");
        toolchain.set_up(&mut cargo);
        let output = cargo.output().context("cannot run cargo; it comes with Rust")?;
        if !output.status.success() {
            bail!("cargo could not build {}", self.name);
        }
        let wasm = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
            .filter(|artifact| artifact.target.name.replace('-', "_") == self.name.replace('-', "_"))
            .flat_map(|artifact| artifact.filenames)
            .find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
            .ok_or_else(|| anyhow!("cargo built no .wasm file for {}", self.name))?;
        let core = fs::read(&wasm).with_context(|| format!("cannot read {}", wasm.display()))?;
        wit_component::ComponentEncoder::default()
            .validate(true)
            .module(&core)
            .and_then(|mut encoder| encoder.encode())
            .context("cannot encode it as a component; does the crate call rollcall_policy::export!?")
    }

    /// Digest of all files and locked versions that the component is made from.
    fn sources_sha256(&self) -> Result<String> {
        let lock_path = self.workspace.join("Cargo.lock");
        let lock =
            fs::read_to_string(&lock_path).with_context(|| format!("cannot read {}", lock_path.display()))?;
        let lock: Lock = toml::from_str(&lock).with_context(|| format!("in {}", lock_path.display()))?;
        let mut digest = Sha256::new();
        let mut wanted = vec![self.name.clone()];
        let mut seen = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            for package in lock.package.iter().filter(|package| package.is(&name)) {
                if seen.insert((package.name.clone(), package.version.clone(), package.checksum.clone())) {
                    wanted.extend(package.dependencies.iter().cloned());
                }
            }
        }
        let mut files = BTreeSet::new();
        for (name, version, checksum) in &seen {
            match checksum {
                Some(checksum) => digest.update(format!("{name} {version} {checksum}\n")),
                None => sources(&self.package_directory(name)?, &mut files)?,
            }
        }
        sources(&self.workspace.join("wit"), &mut files)?;
        // Crates inherit their version and edition from it.
        files.insert(self.workspace.join("Cargo.toml"));
        for file in files {
            let name = file.strip_prefix(&self.workspace).unwrap_or(&file).display().to_string();
            let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            digest.update(format!("{name} {}\n", sha256(&bytes)));
        }
        Ok(hex(&digest.finalize()))
    }

    /// The directory of a package in the workspace.
    fn package_directory(&self, name: &str) -> Result<PathBuf> {
        let output = Command::new("cargo")
            .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path"])
            .arg(self.workspace.join("Cargo.toml"))
            .output()
            .context("cannot run cargo")?;
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).context("cannot read cargo's metadata")?;
        let package = metadata.packages.into_iter().find(|package| package.name == name);
        let package = package.ok_or_else(|| anyhow!("the workspace has no package {name}"))?;
        Ok(package.manifest_path.parent().map(Path::to_path_buf).unwrap_or_default())
    }
}

/// Every file may be an input of the build, except the output of an earlier one.
fn sources(directory: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if !path.is_dir() {
            files.insert(path);
        } else if path.file_name().is_some_and(|name| name != "target") {
            sources(&path, files)?;
        }
    }
    Ok(())
}

/// A compiler that can build for WebAssembly.
#[derive(Clone)]
struct Toolchain {
    version: String,
    rustc: PathBuf,
    /// The standard library exists only as source, and must be built.
    build_std: bool,
}

impl Toolchain {
    fn find() -> Result<Toolchain> {
        let ordinary = Toolchain::of(Path::new("rustc"));
        if let Some((toolchain, sysroot)) = &ordinary
            && sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
        {
            return Ok(Toolchain { build_std: false, ..toolchain.clone() });
        }
        // Debian's rustc-web has the compiler for the target, rust-web-src the library's source.
        if let Some((toolchain, sysroot)) = Toolchain::of(Path::new("/usr/bin/rustc"))
            && sysroot.join("lib/rustlib/src/rust/library").is_dir()
            && runs("wasm-ld")
        {
            return Ok(Toolchain { build_std: true, ..toolchain });
        }
        bail!(
            "there is no Rust toolchain for {TARGET} on this machine.\n\
             With rustup:    rustup target add {TARGET}\n\
             On Debian:      apt-get install rustc-web rust-web-src lld"
        )
    }

    fn of(rustc: &Path) -> Option<(Toolchain, PathBuf)> {
        let ask = |args: &[&str]| {
            let output = Command::new(rustc).args(args).stderr(Stdio::null()).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
        };
        let version = ask(&["--version"])?;
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?);
        Some((Toolchain { version, rustc: rustc.into(), build_std: false }, sysroot))
    }

    fn set_up(&self, cargo: &mut Command) {
        // `trim-paths` and `build-std` are not stable yet; the resulting code does not depend on them.
        cargo.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1").arg("-Ztrim-paths");
        if self.build_std {
            cargo
                .arg("-Zbuild-std=std,panic_abort")
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld");
        }
    }
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    #[serde(default)]
    crate_types: Vec<String>,
}

#[derive(Deserialize)]
struct Artifact {
    target: Target,
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

impl Locked {
    /// Cargo.lock names a dependency by name alone, or with its version if there are several.
    fn is(&self, dependency: &str) -> bool {
        let mut parts = dependency.split(' ');
        parts.next() == Some(&self.name) && parts.next().is_none_or(|version| version == self.version)
    }
}
