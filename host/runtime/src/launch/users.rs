//! Who the process is: `user[:group]` against the container's own /etc/passwd and /etc/group.

use super::{Failure, Step};

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: Option<String>,
}

/// `passwd` and `group` are the files' contents. Wording is runc's.
pub(super) fn resolve(
    user: &str,
    group: Option<u32>,
    extra: &[u32],
    strict: bool,
    passwd: &str,
    groups: &str,
) -> Step<Identity> {
    let (name, group_name) = match user.split_once(':') {
        Some((u, g)) => (u, Some(g).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number: Option<u32> = name.parse().ok();
    let mut found = None;
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let (Some(entry), Some(Ok(uid)), Some(Ok(gid))) = (
            fields.first(),
            fields.get(2).map(|f| f.parse::<u32>()),
            fields.get(3).map(|f| f.parse::<u32>()),
        ) else {
            continue;
        };
        if *entry == name || number == Some(uid) {
            found = Some((entry.to_string(), uid, gid, fields.get(5).map(|s| s.to_string())));
            break;
        }
    }
    let mut identity = match (found, number) {
        (Some((entry, uid, gid, home)), _) => {
            let mut identity =
                Identity { uid, gid, groups: Vec::new(), home: home.filter(|home| !home.is_empty()) };
            if !strict {
                identity.groups = member_of(&entry, groups);
            }
            identity
        }
        (None, Some(uid)) => Identity { uid, ..Identity::default() },
        (None, None) => {
            return Err(Failure(format!("unable to find user {name}: no matching entries in passwd file")));
        }
    };
    if let Some(group_name) = group_name {
        identity.gid = match (group_id(group_name, groups), group_name.parse()) {
            (Some(gid), _) | (None, Ok(gid)) => gid,
            (None, Err(_)) => {
                return Err(Failure(format!(
                    "unable to find group {group_name}: no matching entries in group file"
                )));
            }
        };
    }
    if let Some(gid) = group {
        identity.gid = gid;
    }
    for gid in extra.iter().copied().chain([identity.gid]) {
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(identity)
}

fn group_id(name: &str, groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (entry, gid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        (entry == name).then_some(gid)
    })
}

fn member_of(user: &str, groups: &str) -> Vec<u32> {
    groups
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let gid = fields.get(2)?.parse().ok()?;
            fields.get(3)?.split(',').any(|member| member == user).then_some(gid)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nextra:x:50:web,other\n";

    fn ids(user: &str, group: Option<u32>, extra: &[u32], strict: bool) -> Identity {
        resolve(user, group, extra, strict, PASSWD, GROUP).unwrap()
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(ids("", None, &[], false).home.as_deref(), Some("/root"));
        let web = ids("web", None, &[7], false);
        assert_eq!((web.uid, web.gid, web.groups), (33, 34, vec![50, 7, 34]));
        let web = ids("33", None, &[], true);
        assert_eq!((web.uid, web.gid, web.groups), (33, 34, vec![34]));
        let stranger = ids("1000:www", Some(5), &[], false);
        assert_eq!((stranger.uid, stranger.gid, stranger.home), (1000, 5, None));
        assert_eq!(ids("web:extra", None, &[], false).gid, 50);
        let why = resolve("nobody", None, &[], false, PASSWD, GROUP).unwrap_err().0;
        assert_eq!(why, "unable to find user nobody: no matching entries in passwd file");
    }
}
