//! Puts the programs where a service manager, a shell and `man` look for them, and makes a Debian package of that.
//!
//! | under the prefix (`/usr`) | what |
//! |---|---|
//! | `bin/` | the four programs |
//! | `lib/systemd/system/`, `lib/sysusers.d/`, `lib/tmpfiles.d/` | units, users, the runtime folder |
//! | `share/qtf/` | drop-ins and a sample for sysctl, to be copied by who wants them |
//! | `share/man/man1/`, completions of bash, zsh and fish | made by `qtf-pages` |
//!
//! The configuration is `/etc/qtf/qtfd.toml`, whatever the prefix. An installed file is replaced by a new one, never written into: a program that runs
//! goes on with its own. Tested in `tests/tests/service/`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

use crate::cargo::{self, Tally, workspace_root};

const PROGRAMS: [(&str, &str); 4] = [
    ("qtf-daemon", "qtfd"),
    ("qtf-worker", "qtf-worker"),
    ("qtf", "qtf"),
    ("shm-inspect", "shm-inspect"),
];
const UNITS: [&str; 6] = [
    "qtfd.service",
    "qtfd@.service",
    "qtfd.socket",
    "qtfd@.socket",
    "qtfd-tcp.socket",
    "qtf-worker@.service",
];
const DROP_INS: [&str; 4] = [
    "notify-reload.conf",
    "private-ipc.conf",
    "huge-pages.conf",
    "real-time.conf",
];
/// As it stands in the units of the repository.
const PREFIX: &str = "/usr";
const PROGRAM: u32 = 0o755;
const FILE: u32 = 0o644;

/// Which programs.
#[derive(Debug, Args)]
struct BuildArguments {
    /// Profile of the build: `dist` for what is given to others
    #[arg(long, value_name = "NAME", default_value = "dist")]
    profile: String,
    /// Takes the programs, `qtf-pages` too, from this folder, and builds nothing
    #[arg(long, value_name = "DIR")]
    built: Option<PathBuf>,
}

/// Where to, and what is built.
#[derive(Debug, Args)]
pub(crate) struct InstallArguments {
    /// Folder that stands for `/`
    #[arg(long, value_name = "DIR")]
    destdir: PathBuf,
    /// Where programs, units and pages go, below that
    #[arg(long, value_name = "DIR", default_value = PREFIX)]
    prefix: PathBuf,
    #[command(flatten)]
    build: BuildArguments,
}

/// What is built, and where the package goes.
#[derive(Debug, Args)]
pub(crate) struct DebArguments {
    /// Folder for the package
    #[arg(long, value_name = "DIR", default_value = "target/debian")]
    output: PathBuf,
    #[command(flatten)]
    build: BuildArguments,
    /// Version of the package, if not that of the workspace
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
}

pub(crate) fn install(arguments: &InstallArguments) -> anyhow::Result<Tally> {
    let InstallArguments {
        destdir,
        prefix,
        build,
    } = arguments;
    if !prefix.is_absolute() {
        bail!(
            "--prefix {}: write it from the root, as /usr/local",
            prefix.display()
        );
    }
    let built = build.run()?;
    put_all(&built, destdir, prefix)?;
    Ok(Tally::default())
}

impl BuildArguments {
    /// Builds programs and pages, if they are not there; gives their folder.
    fn run(&self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = &self.built {
            return Ok(folder.clone());
        }
        let mut command = cargo::cargo();
        command.args(["build", "--profile", &self.profile]);
        for (package, program) in PROGRAMS {
            command.args(["--package", package, "--bin", program]);
        }
        command.args(["--package", "qtf-pages", "--bin", "qtf-pages"]);
        cargo::run(&mut command)?;
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or_else(|| workspace_root().join("target"), PathBuf::from);
        Ok(target.join(match self.profile.as_str() {
            "dev" => "debug",
            other => other,
        }))
    }
}

fn put_all(built: &Path, destdir: &Path, prefix: &Path) -> anyhow::Result<()> {
    let below = |folder: &str| under(destdir, prefix).join(folder);
    for (_, program) in PROGRAMS {
        put(&built.join(program), &below("bin").join(program), PROGRAM)?;
    }
    let ours = workspace_root().join("systemd");
    for unit in UNITS {
        let text = read(&ours.join(unit))?;
        let bin = format!("{}/bin/", prefix.display());
        let text = text.replace(&format!("{PREFIX}/bin/"), &bin);
        write(
            &below("lib/systemd/system").join(unit),
            text.as_bytes(),
            FILE,
        )?;
    }
    for (from, to) in [
        ("qtf.sysusers", "lib/sysusers.d/qtf.conf"),
        ("qtf.tmpfiles", "lib/tmpfiles.d/qtf.conf"),
        ("sysctl.conf", "share/qtf/sysctl.conf"),
    ] {
        put(&ours.join(from), &below(to), FILE)?;
    }
    for file in DROP_INS {
        let to = below("share/qtf/drop-ins").join(file);
        put(&ours.join("drop-ins").join(file), &to, FILE)?;
    }
    let configuration = under(destdir, Path::new("/etc/qtf/qtfd.toml"));
    // What an operator has written stays.
    if !configuration.exists() {
        put(&ours.join("qtfd.toml"), &configuration, FILE)?;
    }
    put_pages(built, &below("share"))
}

fn put_pages(built: &Path, share: &Path) -> anyhow::Result<()> {
    let made = share.join("pages.new");
    let mut command = Command::new(built.join("qtf-pages"));
    cargo::run(command.arg(&made))?;
    for (from, to) in [
        ("man1", "man/man1"),
        ("bash", "bash-completion/completions"),
        ("zsh", "zsh/site-functions"),
        ("fish", "fish/vendor_completions.d"),
    ] {
        let folder = made.join(from);
        let files = fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
        for file in files {
            let file = file?;
            let name = file.file_name();
            // The shell finds them by the name of the program.
            let name = name.to_string_lossy();
            let name = match from {
                "bash" => name.trim_end_matches(".bash"),
                _ => &name,
            };
            put(&file.path(), &share.join(to).join(name), FILE)?;
        }
    }
    fs::remove_dir_all(&made).with_context(|| format!("{} cannot be removed", made.display()))
}

fn under(destdir: &Path, path: &Path) -> PathBuf {
    destdir.join(path.strip_prefix("/").unwrap_or(path))
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

fn put(from: &Path, to: &Path, mode: u32) -> anyhow::Result<()> {
    let bytes = fs::read(from).with_context(|| format!("{} cannot be read", from.display()))?;
    write(to, &bytes, mode)
}

fn write(to: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let failed = || format!("{} cannot be written", to.display());
    let folder = to.parent().with_context(failed)?;
    fs::create_dir_all(folder).with_context(failed)?;
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = to.with_file_name(name);
    fs::write(&beside, bytes).with_context(failed)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode)).with_context(failed)?;
    fs::rename(&beside, to).with_context(failed)
}

/// Makes the package with `dpkg-deb`, which knows its format.
pub(crate) fn deb(arguments: &DebArguments) -> anyhow::Result<Tally> {
    let built = arguments.build.run()?;
    let version = arguments
        .version
        .as_deref()
        .unwrap_or(env!("CARGO_PKG_VERSION"));
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no name of Debian's is known for {other}"),
    };
    fs::create_dir_all(&arguments.output)?;
    let name = format!("quantum-taskflow_{version}_{architecture}");
    let tree = arguments.output.join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    put_all(&built, &tree, Path::new(PREFIX))?;
    let ours = workspace_root().join("systemd/debian");
    let control = read(&ours.join("control"))?
        .replace("@version@", version)
        .replace("@architecture@", architecture);
    let to = tree.join("DEBIAN");
    write(&to.join("control"), control.as_bytes(), FILE)?;
    put(&ours.join("conffiles"), &to.join("conffiles"), FILE)?;
    for script in ["postinst", "prerm", "postrm"] {
        put(&ours.join(script), &to.join(script), PROGRAM)?;
    }
    let package = arguments.output.join(format!("{name}.deb"));
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "-Zgzip", "-z1", "--build"]);
    command.arg(&tree).arg(&package);
    let ran = cargo::run(&mut command);
    ran.context("dpkg-deb makes the package; it is in Debian's package dpkg")?;
    fs::remove_dir_all(&tree)?;
    Ok(Tally::default())
}
