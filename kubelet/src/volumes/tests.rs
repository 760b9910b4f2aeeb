use super::atomic::{Entry, Payload, write};
use super::{VolumeError, files, host_path, subpath};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

fn payload(files: &[(&str, &str)]) -> Payload {
    let entry = |data: &str| Entry { data: data.into(), mode: 0o400, owner: None };
    files.iter().map(|(path, data)| ((*path).to_owned(), entry(data))).collect()
}

#[test]
fn files_change_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
    assert!(write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
    assert_eq!((read("a"), read("d/b")), (Some("1".into()), Some("2".into())));
    let mode = fs::metadata(dir.path().join("a")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
    assert!(!write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap(), "nothing has changed");
    assert!(write(dir.path(), &payload(&[("a", "3"), ("c", "4")]), None).unwrap());
    assert_eq!((read("a"), read("d/b"), read("c")), (Some("3".into()), None, Some("4".into())));
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 4, "two links, ..data and one folder");
    assert!(write(dir.path(), &payload(&[("../x", "1")]), None).is_err());
}

#[test]
fn host_paths_are_what_they_must_be() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let words = |result: Result<(), VolumeError>| result.unwrap_err().to_string();
    host_path::check(&at("absent"), "").unwrap();
    let absent = at("absent");
    let want = format!("hostPath type check failed: {} is not a directory", absent.display());
    assert_eq!(words(host_path::check(&absent, "Directory")), want);
    host_path::check(&at("made/deep"), "DirectoryOrCreate").unwrap();
    host_path::check(&at("made/deep"), "Directory").unwrap();
    host_path::check(&at("file"), "FileOrCreate").unwrap();
    host_path::check(&at("file"), "File").unwrap();
    assert!(words(host_path::check(&at("file"), "Socket")).ends_with("is not a socket file"));
    host_path::check("/dev/null".as_ref(), "CharDevice").unwrap();
}

#[test]
fn a_part_of_a_volume_does_not_lead_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    fs::create_dir_all(volume.join("in")).unwrap();
    symlink("/etc", volume.join("out")).unwrap();
    symlink("in", volume.join("link")).unwrap();
    let bind = |sub: &str| subpath::bind(&volume, sub.as_ref(), &dir.path().join("t").join(sub));
    assert!(bind("out/passwd").is_err());
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for sub in ["in", "link", "new/deep"] {
        bind(sub).unwrap();
    }
    fs::write(volume.join("in/x"), "1").unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("t/link/x")).unwrap(), "1");
    assert!(volume.join("new/deep").is_dir());
    files::remove_pod(&dir.path().join("t")).unwrap();
    assert!(volume.join("in/x").exists());
}

#[test]
fn memory_volumes_are_mounted_and_taken_down() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pod = dir.path().join("pod");
    let volume = pod.join("volumes/e");
    files::empty_dir(&volume, "Memory", Some(1 << 20), Some(2000)).unwrap();
    assert!(files::is_mount_point(&volume));
    let mode = fs::metadata(&volume).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o2777);
    files::empty_dir(&volume, "Memory", Some(1 << 20), Some(2000)).unwrap();
    files::remove_pod(&pod).unwrap();
    assert!(!pod.exists());
}

/// CVE-2021-25741: what is a folder when it is looked at is a link when it is mounted.
#[test]
fn a_link_that_comes_meanwhile_leads_nowhere() {
    use rustix::fs::{CWD, RenameFlags};
    use std::sync::atomic::{AtomicBool, Ordering};
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
    for folder in [&volume.join("in/sub"), &outside.join("sub")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(outside.join("sub/secret"), "").unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    let ended = AtomicBool::new(false);
    let exchange = || {
        while !ended.load(Ordering::Relaxed) {
            // What the Pod's own processes do: the folder and the link change places.
            let (one, other) = (volume.join("in"), volume.join("link"));
            rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
        }
    };
    // The two take turns as the machine's scheduler likes, so that it goes on until both places were met.
    let bind = || {
        let (mut bound, mut refused) = (0, 0);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while (bound < 100 || refused < 100) && std::time::Instant::now() < end {
            let target = dir.path().join("t").join(bound.to_string());
            if subpath::bind(&volume, "in/sub".as_ref(), &target).is_ok() {
                bound += 1;
                assert!(!target.join("secret").exists(), "what is outside the volume is mounted");
            } else {
                refused += 1;
            }
        }
        (bound, refused)
    };
    std::thread::scope(|scope| {
        scope.spawn(exchange);
        let bound = scope.spawn(bind).join();
        ended.store(true, Ordering::Relaxed);
        let (bound, refused) = bound.unwrap();
        assert!(bound >= 100 && refused >= 100, "bound {bound} times, refused {refused} times");
    });
    files::remove_pod(&dir.path().join("t")).unwrap();
    assert!(outside.join("sub/secret").exists());
}
