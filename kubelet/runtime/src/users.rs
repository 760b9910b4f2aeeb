//! Users by name, looked up in an image's layers without mounting them.

use crate::spec::User;
use minik_cri::v1;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::io::Read;
use std::path::PathBuf;

/// A file of users larger than this is none.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// Why a container has no user. Final.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is no such user in the image.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    /// There is no such group in the image.
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
    /// An id out of range.
    #[error("the id {0} is out of range")]
    Range(i64),
}

/// What a file says in the topmost layer that has it.
fn read(layers: &[PathBuf], path: &str) -> String {
    for layer in layers {
        let found = || -> rustix::io::Result<Option<String>> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::open(layer, flags, Mode::empty())?;
            let (flags, resolve) = (OFlags::RDONLY | OFlags::CLOEXEC, ResolveFlags::IN_ROOT);
            let file = rustix::fs::openat2(&folder, path, flags, Mode::empty(), resolve)?;
            let stat = rustix::fs::fstat(&file)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                // A layer above says that the file is deleted, by a device of number zero.
                return Ok(Some(String::new()));
            }
            let mut text = Vec::new();
            let _ = std::fs::File::from(file).take(MOST_BYTES).read_to_end(&mut text);
            Ok(Some(String::from_utf8_lossy(&text).into_owned()))
        };
        match found() {
            Ok(Some(text)) => return text,
            // The device cannot be opened: deleted as well.
            Err(rustix::io::Errno::NXIO | rustix::io::Errno::NODEV) => return String::new(),
            _ => {}
        }
    }
    String::new()
}

fn id(value: i64) -> Result<u32, UserError> {
    u32::try_from(value).map_err(|_| UserError::Range(value))
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account { name, uid, gid })
    })
}

/// Groups as name, id and members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// The user of a container: what the Pod says, or else the image.
///
/// # Errors
/// When a name is in neither of the image's files.
pub fn resolve(
    layers: &[PathBuf],
    security: &v1::LinuxContainerSecurityContext,
    image_user: &str,
) -> Result<User, UserError> {
    let (mut user, mut group) = match image_user.split_once(':') {
        Some((user, group)) => (user.to_owned(), group.to_owned()),
        None => (image_user.to_owned(), String::new()),
    };
    if let Some(uid) = &security.run_as_user {
        (user, group) = (id(uid.value)?.to_string(), String::new());
    } else if !security.run_as_username.is_empty() {
        (user, group) = (security.run_as_username.clone(), String::new());
    }
    if let Some(gid) = &security.run_as_group {
        group = id(gid.value)?.to_string();
    }
    if user.is_empty() {
        user = "0".to_owned();
    }
    let passwd = read(layers, "etc/passwd");
    let number = user.parse::<u32>().ok();
    let account = accounts(&passwd).find(|account| match number {
        Some(uid) => account.uid == uid,
        None => account.name == user,
    });
    let uid = match (&account, number) {
        (Some(account), _) => account.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(UserError::User(user)),
    };
    let group_file = read(layers, "etc/group");
    let gid = match (group.as_str(), group.parse::<u32>()) {
        ("", _) => account.as_ref().map_or(0, |account| account.gid),
        (_, Ok(gid)) => gid,
        (name, Err(_)) => groups(&group_file)
            .find(|(known, ..)| *known == name)
            .map(|(_, gid, _)| gid)
            .ok_or_else(|| UserError::Group(name.to_owned()))?,
    };
    let mut further = vec![gid];
    let strict = security.supplemental_groups_policy() == v1::SupplementalGroupsPolicy::Strict;
    if let (Some(account), false) = (&account, strict) {
        let member = |members: &str| members.split(',').any(|member| member == account.name);
        further.extend(groups(&group_file).filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid));
    }
    for gid in &security.supplemental_groups {
        further.push(id(*gid)?);
    }
    let mut unique = Vec::new();
    further.into_iter().for_each(|gid| {
        if !unique.contains(&gid) {
            unique.push(gid);
        }
    });
    Ok(User { uid, gid, groups: unique })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        image: &str,
        user: Option<i64>,
        group: Option<i64>,
        more: &[i64],
        expected: Result<(u32, u32, &[u32]), &str>,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("low/etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::create_dir_all(folder.path().join("top")).unwrap();
        std::fs::write(etc.join("passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n").unwrap();
        std::fs::write(etc.join("group"), "root:x:0:\nweb:x:34:\nmail:x:8:web,root\n").unwrap();
        let layers = [folder.path().join("top"), folder.path().join("low")];
        let value = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
        let security = v1::LinuxContainerSecurityContext {
            run_as_user: value(user),
            run_as_group: value(group),
            supplemental_groups: more.to_vec(),
            ..Default::default()
        };
        let found = resolve(&layers, &security, image);
        let found = found.as_ref().map(|user| (user.uid, user.gid, user.groups.as_slice()));
        assert_eq!(found.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{image:?}");
    }

    #[test]
    fn users_come_from_the_pod_or_the_image() {
        check("", None, None, &[], Ok((0, 0, &[0, 8])));
        check("web", None, None, &[], Ok((33, 34, &[34, 8])));
        check("web:mail", None, None, &[], Ok((33, 8, &[8])));
        check("web", Some(1000), Some(3000), &[2000, 4000], Ok((1000, 3000, &[3000, 2000, 4000])));
        check("77", None, None, &[], Ok((77, 0, &[0])));
        check(
            "nobody",
            None,
            None,
            &[],
            Err("unable to find user nobody: no matching entries in passwd file"),
        );
        check("web:no", None, None, &[], Err("unable to find group no: no matching entries in group file"));
        check("", Some(-1), None, &[], Err("the id -1 is out of range"));
    }
}
