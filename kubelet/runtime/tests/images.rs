//! Images: archives, registries, layers, and roots over them, on the real file system and against a real registry.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use minik_runtime::images::{Credentials, LayerLimits, Rootfs, Store, StoreConfig};
use minik_testkit::image::{self, Image, Layer, Packing};
use minik_testkit::registry::{self, Registry};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

const NAME: &str = "docker.io/library/test:1";

struct Fixture {
    folder: tempfile::TempDir,
    store: Arc<Store>,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::limited(LayerLimits::default())
    }

    fn limited(limits: LayerLimits) -> Fixture {
        let folder = tempfile::Builder::new().prefix("minik-images-").tempdir().unwrap();
        let store = Arc::new(Store::open(StoreConfig { limits, ..config(folder.path()) }).unwrap());
        Fixture { folder, store }
    }

    fn reopen(&mut self) {
        self.store = Arc::new(Store::open(config(self.folder.path())).unwrap());
    }

    async fn load(&self, archive: Vec<u8>) -> Result<Vec<String>, String> {
        self.store.load(std::io::Cursor::new(archive)).await.map_err(|e| e.to_string())
    }

    /// The root of an image, seen through a real overlay.
    async fn look<T>(&self, name: &str, key: &str, look: impl FnOnce(&Path) -> T) -> T {
        let root = self.store.prepare_rootfs(name, key).await.unwrap();
        let at = self.folder.path().join("mounted");
        let seen = Mounted::new(&root, &at);
        let result = look(&at);
        drop(seen);
        result
    }
}

impl Drop for Fixture {
    /// A store puts its layers onto the disk in the background, and may write while its folder is removed.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            minik_testkit::eventually(Duration::from_secs(20), || {
                match fs::remove_dir_all(self.folder.path()) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                }
            });
        }
    }
}

fn config(folder: &Path) -> StoreConfig {
    StoreConfig { root: folder.join("store"), layers: Some(folder.join("layers")), ..StoreConfig::default() }
}

struct Mounted(PathBuf);

impl Mounted {
    fn new(root: &Rootfs, at: &Path) -> Mounted {
        fs::create_dir_all(at).unwrap();
        let lower: Vec<_> = root.lower.iter().map(|path| path.display().to_string()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            root.upper.display(),
            root.work.display()
        );
        let options = std::ffi::CString::new(options).unwrap();
        mount("overlay", at, "overlay", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Files and folders below the layers, without locks.
fn layer_count(folder: &Path) -> usize {
    names(&folder.join("layers")).iter().filter(|name| *name != "locks").count()
}

fn zstd_pack(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn rich() -> Image {
    let base = Layer::new()
        .folder("./", 0o755)
        .folder("bin", 0o755)
        .file("bin/tool", "tool", 0o4755)
        .folder("etc", 0o700)
        .file("etc/a", "a", 0o644)
        .file("etc/b", "b", 0o644)
        .folder("data", 0o755)
        .file("data/old", "old", 0o644)
        .folder("data/sub", 0o755)
        .file("data/sub/deep", "deep", 0o644)
        .symlink("lib", "usr/lib")
        .folder("usr/lib", 0o755)
        .file("usr/lib/one", "one", 0o644);
    let above = Layer::new()
        .whiteout("etc/a")
        .file("etc/c", "c", 0o600)
        .opaque("data")
        .file("data/new", "new", 0o644)
        // Through the link below, as a container would see it.
        .file("lib/two", "two", 0o644)
        .hard_link("bin/again", "bin/tool")
        .raw(
            "dev/null",
            |h| {
                h.set_entry_type(tar::EntryType::Char);
                h.set_mode(0o666);
                h.set_device_major(1).unwrap();
                h.set_device_minor(3).unwrap();
            },
            b"",
        )
        .xattr("user.note", b"kept")
        .file("noted", "noted", 0o644);
    Image::new(NAME)
        .layer(base)
        .layer(above)
        .set("Entrypoint", json!(["/bin/tool"]))
        .set("Cmd", json!(["serve"]))
        .set("Env", json!(["A=b"]))
        .set("User", json!("web:www"))
        .set("WorkingDir", json!("/data"))
        .set("StopSignal", json!("SIGQUIT"))
}

fn check_rich(root: &Path) {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let mode = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(names(&root.join("etc")), ["b", "c"]);
    assert_eq!(names(&root.join("data")), ["new"], "an opaque folder hides what is below");
    assert_eq!((mode("etc"), mode("bin/tool"), mode("etc/c")), (0o700, 0o4755, 0o600));
    assert_eq!(fs::read_link(root.join("lib")).unwrap(), Path::new("usr/lib"));
    assert_eq!(names(&root.join("usr/lib")), ["one", "two"], "the link below was followed");
    assert_eq!((read("lib/one"), read("usr/lib/two")), ("one".into(), "two".into()));
    let (tool, again) = (fs::metadata(root.join("bin/tool")), fs::metadata(root.join("bin/again")));
    assert_eq!(tool.unwrap().ino(), again.unwrap().ino(), "a hard link to a file of the layer below");
    let null = fs::metadata(root.join("dev/null")).unwrap();
    assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3));
    let mut value = [0u8; 16];
    let length = rustix::fs::getxattr(root.join("noted"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"kept");
}

#[tokio::test]
async fn archives_of_all_kinds_give_the_same_root() {
    let image = rich();
    let gz = |bytes: Vec<u8>| image::gzip(&bytes);
    let zstd = Packing::Other { suffix: "+zstd", pack: zstd_pack };
    for (what, archive) in [
        ("docker", image.docker_archive()),
        ("docker, gzip", gz(image.docker_archive())),
        ("docker, zstd", zstd_pack(&image.docker_archive())),
        ("oci", image.oci_archive()),
        ("oci, gzip layers", image.clone().packed(Packing::Gzip).oci_archive()),
        ("oci, zstd layers, gzip", gz(image.clone().packed(zstd).oci_archive())),
    ] {
        let fixture = Fixture::new();
        assert_eq!(fixture.load(archive).await, Ok(vec![NAME.to_owned()]), "{what}");
        let record = fixture.store.get("test:1").await.unwrap();
        assert_eq!(
            (record.id.as_str(), &record.repo_tags[..]),
            (image.id().as_str(), &[NAME.to_owned()][..])
        );
        assert_eq!(record.repo_digests.len(), usize::from(what.starts_with("oci")), "{what}");
        fixture.look(NAME, "c1", check_rich).await;
        let config = fixture.store.image_config(&record.id).await.unwrap();
        assert_eq!((config.entrypoint, config.cmd), (vec!["/bin/tool".to_owned()], vec!["serve".to_owned()]));
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("web:www", "/data"));
        assert_eq!((config.env, config.stop_signal.as_str()), (vec!["A=b".to_owned()], "SIGQUIT"));
    }
}

#[tokio::test]
async fn no_archive_reaches_outside_its_root() {
    let fixture = Fixture::new();
    let outside = fixture.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let target = outside.display().to_string();
    let evil = Layer::new()
        .raw("../../../../../../tmp/minik-escaped", |_| {}, b"x")
        .raw("/absolute", |_| {}, b"x")
        .raw("a/../../b", |_| {}, b"x")
        .symlink("out", &target)
        .raw("out/planted", |_| {}, b"x")
        .symlink("up", "../../../../../..")
        .raw("up/tmp/minik-escaped", |_| {}, b"x")
        .symlink("loop1", "loop2");
    fixture.load(Image::new(NAME).layer(evil).docker_archive()).await.unwrap();
    assert!(!Path::new("/tmp/minik-escaped").exists());
    assert_eq!(names(&outside), ["secret"]);
    let root = fixture.store.prepare_rootfs(NAME, "c").await.unwrap();
    let tree = &root.lower[0];
    assert!(
        tree.join("absolute").exists() && tree.join("b").exists() && tree.join("tmp/minik-escaped").exists()
    );
    assert!(tree.join(target.trim_start_matches('/')).join("planted").exists());

    for (what, layer, words) in [
        (
            "a hard link out",
            Layer::new().symlink("out", &target).hard_link("stolen", "out/secret"),
            "No such file",
        ),
        (
            "a loop",
            Layer::new().symlink("l1", "l2").symlink("l2", "l1").raw("l1/x", |_| {}, b"x"),
            "Too many levels of symbolic links",
        ),
        ("a name of dots", Layer::new().raw("a/..", |_| {}, b"x"), "ends in .."),
        (
            "a file as a folder",
            Layer::new().file("f", "x", 0o644).raw("f/x", |_| {}, b"x"),
            "Not a directory",
        ),
        ("a deletion of nothing", Layer::new().raw(".wh.", |_| {}, b""), "a deletion of no name"),
        (
            "a device that deletes",
            Layer::new().raw(
                "null",
                |h| {
                    h.set_entry_type(tar::EntryType::Char);
                    h.set_device_major(0).unwrap();
                    h.set_device_minor(0).unwrap();
                },
                b"",
            ),
            "a character device 0:0",
        ),
    ] {
        let error = fixture.load(Image::new("evil").layer(layer).docker_archive()).await.unwrap_err();
        assert!(error.contains(words), "{what}: {error}");
    }
    let hidden = Layer::new().xattr("trusted.overlay.redirect", b"/x").folder("d", 0o755);
    fixture.load(Image::new("quiet").layer(hidden).docker_archive()).await.unwrap();
    let root = fixture.store.prepare_rootfs("quiet", "q").await.unwrap();
    let mut value = [0u8; 8];
    rustix::fs::getxattr(root.lower[0].join("d"), "trusted.overlay.redirect", &mut value[..]).unwrap_err();
    assert_eq!(
        names(&fixture.folder.path().join("layers")).iter().filter(|n| n.starts_with("tmp")).count(),
        0
    );
}

#[tokio::test]
async fn damaged_archives_are_refused_and_leave_nothing() {
    let fixture = Fixture::new();
    let image = rich();
    let mut pushable = image.pushable();
    let layer = pushable.blobs.last_mut().unwrap();
    let at = layer.bytes.windows(3).rposition(|w| w == b"new").unwrap();
    layer.bytes[at] ^= 1;
    let entry = image::descriptor(image::MANIFEST_TYPE, &pushable.manifest);
    let archive = image::oci_archive(&[entry], pushable.blobs.iter().chain([&pushable.manifest]));
    let error = fixture.load(archive).await.unwrap_err();
    assert!(error.contains("digest mismatch: expected sha256:"), "{error}");
    let whole = image.docker_archive();
    for length in [0, 100, whole.len() / 2] {
        fixture.load(whole[..length].to_vec()).await.unwrap_err();
    }
    let error = fixture.load(Layer::new().file("x", "y", 0o644).bytes()).await.unwrap_err();
    assert!(error.contains("neither an OCI image layout"), "{error}");
    let error = fixture.load(Image::new("a/UPPER").docker_archive()).await.unwrap_err();
    assert!(error.contains("must be lowercase"), "{error}");
    assert!(fixture.store.list().is_empty());
    // The lowest layer was whole; without an image it goes at the next collection.
    fixture.load(Image::new("empty").docker_archive()).await.unwrap();
    fixture.store.remove("empty").await.unwrap();
    assert_eq!(layer_count(fixture.folder.path()), 0);
}

/// A layer that holds little and unpacks to much, in each of the ways that there are.
#[tokio::test]
async fn layers_larger_than_allowed_are_refused_and_leave_nothing() {
    let limits = LayerLimits { bytes: 1 << 20, entries: 50, path_bytes: 4000 };
    let fixture = Fixture::limited(limits);
    let files =
        |count| (0..count).fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), "", 0o644)).bytes();
    let holes = |header: &mut tar::Header| {
        header.set_entry_type(tar::EntryType::GNUSparse);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(2 << 20);
        gnu.sparse[0].set_offset(2 << 20);
        gnu.sparse[0].set_length(0);
    };
    // Bytes that stand behind an archive's end are hashed all the same.
    let behind = [files(1), vec![0; 2 << 20]].concat();
    let again = (0..60).fold(Layer::new(), |layer, _| layer.file("same", "", 0o644));
    let most = "the layer has more than 50 files and folders";
    let size = "the archive has more than 1048576 bytes";
    for (what, layer, words) in [
        ("a large file", Layer::new().file("f", vec![0; 2 << 20], 0o644).bytes(), size),
        ("behind the end", behind, size),
        (
            "holes",
            Layer::new().raw("f", holes, b"").bytes(),
            "the layer's files have more than 1048576 bytes",
        ),
        ("many files", files(51), most),
        ("one name again and again", again.bytes(), most),
        ("deep folders", Layer::new().file(&format!("{}f", "d/".repeat(60)), "", 0o644).bytes(), most),
        (
            "long paths",
            Layer::new()
                .file(&format!("{}f", ["d".repeat(200), "/".to_owned()].concat().repeat(8)), "", 0o644)
                .bytes(),
            "the paths of the layer's folders are too long",
        ),
    ] {
        for packing in [Packing::Gzip, Packing::Other { suffix: "+zstd", pack: zstd_pack }] {
            let image = Image { layers: vec![layer.clone()], ..Image::new("bomb") };
            let error = fixture.load(image.packed(packing).oci_archive()).await.unwrap_err();
            assert!(
                error.contains("failed to extract layer sha256:") && error.contains(words),
                "{what}: {error}"
            );
            assert!(fixture.store.list().is_empty(), "{what}");
            assert_eq!(layer_count(fixture.folder.path()), 0, "{what} leaves something");
        }
    }
    let image = Image { layers: vec![files(50)], ..Image::new("large") };
    fixture.load(image.docker_archive()).await.unwrap();
}

#[tokio::test]
async fn layers_live_as_long_as_something_needs_them() {
    let mut fixture = Fixture::new();
    let base = || Layer::new().file("base", "base", 0o644);
    let one = Image::new("one").layer(base()).layer(Layer::new().file("one", "1", 0o644));
    let two = Image::new("two").layer(base()).layer(Layer::new().file("two", "2", 0o644));
    fixture.load(one.docker_archive()).await.unwrap();
    fixture.load(two.docker_archive()).await.unwrap();
    assert_eq!(layer_count(fixture.folder.path()), 3, "the base is shared");

    // A second store over the same layers holds them as well.
    let other = StoreConfig {
        root: fixture.folder.path().join("other"),
        layers: Some(fixture.folder.path().join("layers")),
        ..StoreConfig::default()
    };
    let other = Store::open(other).unwrap();
    other.load(std::io::Cursor::new(two.docker_archive())).await.unwrap();
    assert_eq!(layer_count(fixture.folder.path()), 3);

    fixture.store.prepare_rootfs("one", "c").await.unwrap();
    fixture.store.remove("one").await.unwrap();
    fixture.store.remove("two").await.unwrap();
    assert!(fixture.store.get("one").await.is_none());
    assert_eq!(layer_count(fixture.folder.path()), 3, "a root and another store need all");
    fixture.reopen();
    assert_eq!(fixture.store.rootfs_keys().await.unwrap(), ["c"]);
    fixture.look("one", "c", |root| assert_eq!(fs::read_to_string(root.join("one")).unwrap(), "1")).await;
    fixture.store.remove_rootfs("c").await.unwrap();
    fixture.store.remove_rootfs("c").await.unwrap();
    assert_eq!(layer_count(fixture.folder.path()), 2, "the other store needs its own");
    other.remove("two").await.unwrap();
    assert_eq!(layer_count(fixture.folder.path()), 0);
    assert_eq!(fixture.store.usage().await.unwrap(), (0, 0));
}

#[tokio::test]
async fn images_are_found_by_every_name() {
    let mut fixture = Fixture::new();
    let image = rich();
    fixture.load(image.oci_archive()).await.unwrap();
    fixture.reopen();
    let id = image.id();
    let digest = image.pushable().manifest.digest;
    let hex = id.strip_prefix("sha256:").unwrap();
    let by_digest = format!("test@{digest}");
    for name in ["test:1", "library/test:1", NAME, &id, hex, &hex[..12], &by_digest] {
        assert_eq!(fixture.store.get(name).await.map(|record| record.id), Some(id.clone()), "{name}");
    }
    for name in ["test", "test:2", "other/test:1", "", "zz", &format!("other@{digest}")] {
        assert_eq!(fixture.store.get(name).await, None, "{name}");
    }
    // The name moves to another image, and the first one stays by its digest alone.
    let newer = Image::new(NAME).layer(Layer::new().file("newer", "", 0o644));
    fixture.load(newer.docker_archive()).await.unwrap();
    assert_eq!(fixture.store.get("test:1").await.unwrap().id, newer.id());
    assert!(fixture.store.get(&id).await.unwrap().repo_tags.is_empty());
    for bad in ["../x", "", ".", "a/b"] {
        assert!(fixture.store.prepare_rootfs(NAME, bad).await.is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn pulls_from_a_registry_over_http() {
    let fixture = Fixture::new();
    let registry = Registry::start().unwrap();
    let image = rich().packed(Packing::Gzip);
    let digest = registry.push("team/app", "1", &image).unwrap();
    let name = format!("{}/team/app:1", registry.name());
    assert_eq!(fixture.store.pull(&name, Credentials::Anonymous).await.unwrap(), image.id());
    fixture.look(&name, "c", check_rich).await;
    let record = fixture.store.get(&name).await.unwrap();
    assert_eq!(record.repo_tags, [name.as_str()]);
    assert_eq!(record.repo_digests, [format!("{}/team/app@{digest}", registry.name())]);
    let size: usize = image.pushable().blobs.iter().map(|blob| blob.bytes.len()).sum();
    assert_eq!(record.size_bytes, (size + image.pushable().manifest.bytes.len()) as u64);
    // By digest, and again: nothing is unpacked twice.
    let by_digest = format!("{}/team/app@{digest}", registry.name());
    assert_eq!(fixture.store.pull(&by_digest, Credentials::Anonymous).await.unwrap(), image.id());
    assert_eq!(layer_count(fixture.folder.path()), 2);

    let here = Image { architecture: image::architecture().into(), ..rich() };
    let there = Image {
        architecture: "s390x".into(),
        ..Image::new("x").layer(Layer::new().file("s390x", "", 0o644))
    };
    let digest = registry.push_index("many", "latest", &[there.clone(), here.clone()]).unwrap();
    let many = format!("{}/many", registry.name());
    assert_eq!(fixture.store.pull(&many, Credentials::Anonymous).await.unwrap(), here.id());
    let record = fixture.store.get(&many).await.unwrap();
    assert!(record.repo_digests.contains(&format!("{many}@{digest}")), "the digest of the index");
    registry.push_index("elsewhere", "latest", &[there]).unwrap();
    let error = pull_error(&fixture, &format!("{}/elsewhere", registry.name())).await;
    assert!(error.contains(": no match for platform in manifest: linux/"), "{error}");
}

async fn pull_error(fixture: &Fixture, name: &str) -> String {
    fixture.store.pull(name, Credentials::Anonymous).await.unwrap_err().to_string()
}

#[tokio::test]
async fn refusals_are_told_in_the_usual_words() {
    let fixture = Fixture::new();
    let registry = Registry::start().unwrap();
    let name = format!("{}/absent:1", registry.name());
    assert_eq!(
        pull_error(&fixture, &name).await,
        format!(
            "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found"
        )
    );
    let down = format!("127.0.0.1:{}", registry.port());
    drop(registry);
    let name = format!("{down}/absent:1");
    assert_eq!(
        pull_error(&fixture, &name).await,
        format!(
            "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": failed to do request: \
             Get \"http://{down}/v2/absent/manifests/1\": dial tcp {down}: connect: connection refused"
        )
    );
    let error = pull_error(&fixture, "UPPER/x:::").await;
    assert_eq!(error, "failed to parse image reference \"UPPER/x:::\": invalid reference format");
}

#[tokio::test]
async fn a_registry_may_ask_who_one_is() {
    let fixture = Fixture::new();
    let registry = Registry::start_with(&registry::Options { password: true, ..Default::default() }).unwrap();
    registry.push("closed", "1", &rich()).unwrap();
    let name = format!("{}/closed:1", registry.name());
    let error = pull_error(&fixture, &name).await;
    assert!(
        error.ends_with(
            ": pull access denied, repository does not exist or may require authorization: authorization failed: no \
             basic auth credentials"
        ),
        "{error}"
    );
    let password =
        |password: &str| Credentials::Password { user: registry::USER.into(), password: password.into() };
    fixture.store.pull(&name, password("wrong")).await.unwrap_err();
    let id = fixture.store.pull(&name, password(registry::PASSWORD)).await.unwrap();
    assert_eq!(id, rich().id());
    assert!(!format!("{:?}", password("hidden")).contains("hidden"));
}

#[tokio::test]
async fn a_registry_may_speak_https_with_a_ca_of_its_own() {
    let fixture = Fixture::new();
    let plain = Registry::start().unwrap();
    plain.push("app", "1", &rich()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let (cert_file, key_file) =
        (fixture.folder.path().join("tls.crt"), fixture.folder.path().join("tls.key"));
    fs::write(&cert_file, certificate.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let options = registry::Options {
        tls: Some((cert_file.clone(), key_file)),
        storage: Some(plain.storage()),
        password: false,
    };
    let registry = Registry::start_with(&options).unwrap();
    let hosts = fixture.folder.path().join("hosts.json");
    let host = registry.name();
    fs::write(&hosts, json!({host.clone(): {"plainHttp": false, "caFile": cert_file}}).to_string()).unwrap();
    let mut config = config(fixture.folder.path());
    config.registry_hosts = Some(hosts.clone());
    let store = Store::open(config).unwrap();
    assert_eq!(store.pull(&format!("{host}/app:1"), Credentials::Anonymous).await.unwrap(), rich().id());
    fs::write(&hosts, json!({host.clone(): {"plainHttp": false}}).to_string()).unwrap();
    let error = store.pull(&format!("{host}/app:1"), Credentials::Anonymous).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn sockets_to_registries_can_belong_to_another_namespace() {
    let mut fixture = Fixture::new();
    let registry = Registry::start().unwrap();
    registry.push("app", "1", &rich()).unwrap();
    let name = format!("{}/app:1", registry.name());
    let mut config = config(fixture.folder.path());
    let elsewhere = minik_net::NetNs::create().unwrap();
    // By its open file: nothing is left, however the test ends.
    config.registry_netns = Some(format!("/proc/self/fd/{}", elsewhere.as_fd().as_raw_fd()).into());
    fixture.store = Arc::new(Store::open(config.clone()).unwrap());
    let error = pull_error(&fixture, &name).await;
    assert!(error.ends_with("network is unreachable") || error.ends_with("connection refused"), "{error}");
    config.registry_netns = Some("/proc/self/ns/net".into());
    fixture.store = Arc::new(Store::open(config).unwrap());
    fixture.store.pull(&name, Credentials::Anonymous).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pulls_at_once_unpack_each_layer_once() {
    let fixture = Fixture::new();
    let registry = Registry::start().unwrap();
    registry.push("app", "1", &rich().packed(Packing::Gzip)).unwrap();
    let name = format!("{}/app:1", registry.name());
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let (store, name) = (fixture.store.clone(), name.clone());
            tokio::spawn(
                async move { store.pull(&name, Credentials::Anonymous).await.map_err(|e| e.to_string()) },
            )
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await.unwrap(), Ok(rich().id()));
    }
    assert_eq!((fixture.store.list().len(), layer_count(fixture.folder.path())), (1, 2));
}

#[tokio::test]
async fn what_a_crash_leaves_is_cleared_at_the_next_start() {
    let mut fixture = Fixture::new();
    fixture.load(rich().docker_archive()).await.unwrap();
    let layers = fixture.folder.path().join("layers");
    // Half a layer of a process that is no more, and one of a process that still works on it.
    let dead = layers.join("tmp.4194305-1.unpack.x.0");
    let own = fs::read_to_string("/proc/self/stat").unwrap();
    let start = own.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    let alive = layers.join(format!("tmp.{}-{start}.unpack.x.0", std::process::id()));
    for path in [&dead, &alive] {
        fs::create_dir_all(path.join("tree/deep")).unwrap();
    }
    // A root that was never handed out.
    let root = fixture.folder.path().join("store/roots/half");
    fs::create_dir_all(root.join("upper")).unwrap();
    fixture.reopen();
    assert!(!dead.exists() && alive.exists() && !root.exists());
    assert!(fixture.store.get(NAME).await.is_some());

    // A layer of an earlier boot that never reached the disk for certain, as after a power cut.
    let record = |folder: &Path| {
        let name = names(folder).into_iter().find(|name| name.len() == 32).unwrap();
        folder.join(name).join("layer.json")
    };
    let path = record(&layers);
    eventually_synced(&path);
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    value["unsynced_boot"] = json!("an earlier boot");
    fs::write(&path, value.to_string()).unwrap();
    fixture.reopen();
    assert!(fixture.store.get(NAME).await.is_none(), "an image with a layer less is none");
    fixture.load(rich().docker_archive()).await.unwrap();
    fixture.look(NAME, "c", check_rich).await;

    fs::write(fixture.folder.path().join("store/images.json"), "{ damaged").unwrap();
    fixture.reopen();
    assert!(fixture.store.list().is_empty());
    assert_eq!(
        layer_count(fixture.folder.path()),
        3,
        "the root of c needs both layers, and one is being unpacked"
    );
}

/// Waits until the store has noted that the layer is on the disk.
fn eventually_synced(path: &Path) {
    minik_testkit::eventually(Duration::from_secs(60), || {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        if record["unsynced_boot"].is_null() { Ok(()) } else { Err(record) }
    });
}

mod service {
    //! What CRI says of it.

    use super::*;
    use base64::Engine as _;
    use minik_cri::v1::image_service_server::ImageService;
    use minik_cri::v1::{self, AuthConfig, ImageSpec};
    use minik_runtime::images::Service;
    use tonic::{Code, Request};

    fn spec(image: &str) -> Option<ImageSpec> {
        Some(ImageSpec { image: image.into(), ..ImageSpec::default() })
    }

    async fn pull(service: &Service, image: &str, auth: AuthConfig) -> Result<String, tonic::Status> {
        let request = v1::PullImageRequest { image: spec(image), auth: Some(auth), sandbox_config: None };
        Ok(service.pull_image(Request::new(request)).await?.into_inner().image_ref)
    }

    async fn status(service: &Service, image: &str, verbose: bool) -> v1::ImageStatusResponse {
        let request = v1::ImageStatusRequest { image: spec(image), verbose };
        service.image_status(Request::new(request)).await.unwrap().into_inner()
    }

    #[tokio::test]
    async fn images_come_are_told_of_and_go() {
        let fixture = Fixture::new();
        let service = Service::new(fixture.store.clone());
        let registry =
            Registry::start_with(&registry::Options { password: true, ..Default::default() }).unwrap();
        registry.push("app", "1", &rich()).unwrap();
        let name = format!("{}/app:1", registry.name());
        assert_eq!(
            status(&service, &name, true).await,
            v1::ImageStatusResponse::default(),
            "absent is an answer"
        );

        let auth = base64::engine::general_purpose::STANDARD.encode(format!(
            "{}:{}",
            registry::USER,
            registry::PASSWORD
        ));
        let elsewhere = AuthConfig {
            auth: auth.clone(),
            server_address: "https://other.example/v2".into(),
            ..AuthConfig::default()
        };
        let refused = pull(&service, &name, elsewhere).await.unwrap_err();
        assert!(
            refused.code() == Code::Unknown && refused.message().contains("no basic auth credentials"),
            "{refused}"
        );
        let here = AuthConfig {
            auth,
            server_address: format!("http://{}", registry.name()),
            ..AuthConfig::default()
        };
        assert_eq!(pull(&service, &name, here).await.unwrap(), rich().id());
        let none = format!("{}/none", registry.name());
        let missing = pull(
            &service,
            &none,
            AuthConfig {
                username: registry::USER.into(),
                password: registry::PASSWORD.into(),
                ..AuthConfig::default()
            },
        );
        assert_eq!(missing.await.unwrap_err().code(), Code::NotFound);
        let odd = pull(&service, "a//b", AuthConfig::default()).await.unwrap_err();
        assert_eq!(odd.code(), Code::InvalidArgument);

        let answer = status(&service, &name, true).await;
        let image = answer.image.unwrap();
        assert_eq!(
            (image.id.as_str(), image.username.as_str(), image.uid),
            (rich().id().as_str(), "web", None)
        );
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
        assert_eq!(info["imageSpec"]["config"]["WorkingDir"], "/data");
        fixture.load(Image::new("numeric").set("User", json!("1000:5")).docker_archive()).await.unwrap();
        assert_eq!(status(&service, "numeric", false).await.image.unwrap().uid.unwrap().value, 1000);

        let list = |filter: &str| {
            let filter = Some(v1::ImageFilter { image: spec(filter) });
            let request = Request::new(v1::ListImagesRequest { filter });
            let service = service.clone();
            async move { service.list_images(request).await.unwrap().into_inner().images.len() }
        };
        assert_eq!((list("").await, list("numeric").await, list("none").await), (2, 1, 0));
        let info = service.image_fs_info(Request::new(v1::ImageFsInfoRequest {})).await.unwrap().into_inner();
        let usage = info.image_filesystems[0].clone();
        assert!(usage.used_bytes.unwrap().value > 20 && usage.inodes_used.unwrap().value > 20);
        for _ in 0..2 {
            let request = Request::new(v1::RemoveImageRequest { image: spec(&name) });
            service.remove_image(request).await.unwrap();
        }
        assert_eq!(list("").await, 1);
    }
}
