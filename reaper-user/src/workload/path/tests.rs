use super::*;

const A: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f900112233445566778899aabbccddeeff";
const B: &str = "ffeeddccbbaa99887766554433221100f9e8d7c6b5a49382716f5e4d3c2b1a00";
const UID: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";
const UID_: &str = "8dbc5577_d0e2_4706_8787_57d52c03ddf2";
const HASH: &str = "5f3a1b2c4d5e6f708192a3b4c5d6e7f8";

/// `$A`, `$B`, `$U` (UID), `$_` (UID with underscores) and `$H` (hash of a static pod) stand for the constants above.
fn fill(text: &str) -> String {
    [("$A", A), ("$B", B), ("$U", UID), ("$_", UID_), ("$H", HASH)]
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// "kind id runtime pod_uid unit", `-` for none.
fn summary(workload: &Workload) -> String {
    let Workload { kind, id, runtime, pod_uid, unit, cgroup: _ } = workload;
    let word = |value: serde_json::Value| value.as_str().unwrap_or("-").to_owned();
    let text = |value: &Option<Untrusted>| value.as_ref().map_or("-", Untrusted::as_str).to_owned();
    [
        word(serde_json::to_value(kind).unwrap()),
        text(id),
        word(serde_json::to_value(runtime).unwrap()),
        text(pod_uid),
        text(unit),
    ]
    .join(" ")
}

#[track_caller]
fn check(cases: &[(&str, &str)]) {
    for (path, expected) in cases {
        let path = fill(path);
        let workload = Workload::from_cgroup(path.as_bytes());
        assert_eq!(summary(&workload), fill(expected), "{path}");
        assert_eq!(workload.cgroup, Some(Untrusted::new(path.as_bytes())));
    }
}

#[test]
fn kubernetes_with_the_systemd_driver() {
    check(&[
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$_.slice/cri-containerd-$A.scope",
            "pod $A containerd $U cri-containerd-$A.scope",
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod$_.slice/crio-$A.scope",
            "pod $A cri-o $U crio-$A.scope",
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod$_.slice/crio-$A.scope/container",
            "pod $A cri-o $U crio-$A.scope",
        ),
        ("/kubepods.slice/kubepods-pod$_.slice/docker-$A.scope", "pod $A docker $U docker-$A.scope"),
        (
            "/kubepods.slice/kubepods-guaranteed.slice/kubepods-guaranteed-pod$_.slice/docker-$A.scope",
            "pod $A docker $U docker-$A.scope",
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$H.slice/cri-containerd-$A.scope",
            "pod $A containerd $H cri-containerd-$A.scope",
        ),
        // In the pod's own cgroup, in no container of it.
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$_.slice",
            "pod - - $U kubepods-burstable-pod$_.slice",
        ),
        // A cgroup root above it.
        (
            "/my.slice/my-kubepods.slice/my-kubepods-burstable.slice/my-kubepods-burstable-pod$_.slice/crio-$A.scope",
            "pod $A cri-o $U crio-$A.scope",
        ),
    ]);
}

#[test]
fn kubernetes_with_the_cgroupfs_driver() {
    check(&[
        ("/kubepods/burstable/pod$U/$A", "pod $A - $U -"),
        ("/kubepods/besteffort/pod$H/$A", "pod $A - $H -"),
        ("/kubepods/pod$U/$A", "pod $A - $U -"),
        ("/kubepods/burstable/pod$U", "pod - - $U -"),
        ("/kubepods/burstable/pod$U/crio-$A", "pod $A cri-o $U -"),
        ("/my/root/kubepods/burstable/pod$U/$A", "pod $A - $U -"),
        (
            "/system.slice/containerd.service/kubepods-burstable-pod$_.slice:cri-containerd:$A",
            "pod $A containerd $U containerd.service",
        ),
        ("/kubepods-pod$_.slice:cri-containerd:$A", "pod $A containerd $U -"),
        ("/kubepods-besteffort-pod$_.slice:crio:$A", "pod $A cri-o $U -"),
    ]);
}

#[test]
fn what_watches_over_a_container_is_not_in_it() {
    check(&[
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$_.slice/crio-conmon-$A.scope",
            "unit crio-conmon-$A.scope - - crio-conmon-$A.scope",
        ),
        ("/kubepods/burstable/pod$U/crio-conmon-$A", "host - - - -"),
        ("/system.slice/crio-conmon-$A.scope", "unit crio-conmon-$A.scope - - crio-conmon-$A.scope"),
        ("/machine.slice/libpod-conmon-$A.scope", "unit libpod-conmon-$A.scope - - libpod-conmon-$A.scope"),
        ("/lxc.monitor.web", "host - - - -"),
        ("/lxc.monitor/web", "host - - - -"),
        ("/lxc.pivot", "host - - - -"),
        (
            "/machine.slice/systemd-nspawn@web.service/supervisor",
            "unit systemd-nspawn@web.service - - systemd-nspawn@web.service",
        ),
    ]);
}

#[test]
fn the_innermost_container_wins() {
    check(&[
        ("/docker/$A/kubelet/kubepods/burstable/pod$U/$B", "pod $B - $U -"),
        (
            "/docker/$A/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-pod$_.slice/cri-containerd-$B.scope",
            "pod $B containerd $U cri-containerd-$B.scope",
        ),
        ("/system.slice/docker-$A.scope/kubelet/kubepods/besteffort/pod$U/$B", "pod $B - $U docker-$A.scope"),
        ("/system.slice/docker-$A.scope/docker/$B", "container $B docker - docker-$A.scope"),
        // Docker in a pod: the container, and the pod that it is in.
        ("/kubepods/burstable/pod$U/$A/docker/$B", "container $B docker $U -"),
        ("/lxc.payload.box/docker/$A", "container $A docker - -"),
        ("/lxc.payload.a/lxc.payload.b", "machine b lxc - -"),
        ("/docker/$A/kubepods/burstable/pod$U/crio-conmon-$B", "container $A docker - -"),
    ]);
}

#[test]
fn docker() {
    check(&[
        ("/docker/$A", "container $A docker - -"),
        ("/system.slice/docker-$A.scope", "container $A docker - docker-$A.scope"),
        ("/my-parent/$A", "container $A - - -"),
        ("/$A", "container $A - - -"),
        ("/ecs/$H/$A", "container $A - - -"),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-$A.scope",
            "container $A docker - docker-$A.scope",
        ),
        ("/docker/buildkit/k3x9m2p8q7r6s5t4u3v2w1x0y", "container k3x9m2p8q7r6s5t4u3v2w1x0y docker - -"),
        ("/system.slice/docker-$A.scope/system.slice/cron.service", "container $A docker - cron.service"),
    ]);
}

#[test]
fn podman_root_and_rootless() {
    check(&[
        ("/machine.slice/libpod-$A.scope", "container $A podman - libpod-$A.scope"),
        ("/machine.slice/libpod-$A.scope/container", "container $A podman - libpod-$A.scope"),
        ("/libpod_parent/libpod-$A", "container $A podman - -"),
        ("/libpod_parent/$B/libpod-$A", "container $A podman - -"),
        (
            "/machine.slice/machine-libpod_pod_$B.slice/libpod-$A.scope",
            "container $A podman - libpod-$A.scope",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-$A.scope/container",
            "container $A podman - libpod-$A.scope",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_$B.slice/libpod-$A.scope",
            "container $A podman - libpod-$A.scope",
        ),
        ("/system.slice/web.service/libpod-payload-$A", "container $A podman - web.service"),
        ("/system.slice/web.service/runtime", "unit web.service - - web.service"),
    ]);
}

#[test]
fn containerd_and_nerdctl() {
    check(&[
        ("/default/$A", "container $A containerd - -"),
        ("/k8s.io/$A", "container $A containerd - -"),
        ("/mine/$A", "container $A - - -"),
        ("/system.slice/nerdctl-$A.scope", "container $A containerd - nerdctl-$A.scope"),
        ("/system.slice:nerdctl:$A", "container $A containerd - -"),
        (
            "/system.slice/containerd.service/system.slice:docker:$A",
            "container $A docker - containerd.service",
        ),
    ]);
}

#[test]
fn low_level_runtimes_where_the_name_shows_them() {
    check(&[
        ("/system.slice/runc-web.scope", "container web oci - runc-web.scope"),
        ("/system.slice/crun-a.b_c.scope", "container a.b_c oci - crun-a.b_c.scope"),
        ("/system.slice:cri:foo", "container foo oci - -"),
        // Nothing shows here: it may be anything.
        ("/leaky", "host - - - -"),
        ("/system.slice/cri-foo.scope", "unit cri-foo.scope - - cri-foo.scope"),
    ]);
}

#[test]
fn machines() {
    check(&[
        ("/lxc.payload.web", "machine web lxc - -"),
        ("/lxc.payload.project_web/system.slice/cron.service", "machine project_web lxc - cron.service"),
        ("/lxc/101/ns", "machine 101 lxc - -"),
        ("/lxc/lxc/ns", "machine lxc lxc - -"),
        ("/lxc.payload/web/init.scope", "machine web lxc - init.scope"),
        ("/user.slice/user-1000.slice/session-1.scope/lxc.payload.web", "machine web lxc - session-1.scope"),
        (r"/machine.slice/machine-my\x2dbox.scope/payload/init.scope", "machine my-box nspawn - init.scope"),
        (r"/machine.slice/machine-my\x2dbox.scope", r"machine my-box - - machine-my\\x2dbox.scope"),
        (
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator",
            r"machine qemu-1-vm - - machine-qemu\\x2d1\\x2dvm.scope",
        ),
        (
            "/machine.slice/systemd-nspawn@web.service/payload/system.slice/a.service",
            "machine web nspawn - a.service",
        ),
        ("/machine.slice/systemd-nspawn@web.service", "machine web nspawn - systemd-nspawn@web.service"),
    ]);
}

#[test]
fn units_sessions_and_the_host() {
    check(&[
        ("/", "host - - - -"),
        ("", "host - - - -"),
        ("/init.scope", "unit init.scope - - init.scope"),
        ("/system.slice/nginx.service", "unit nginx.service - - nginx.service"),
        ("/system.slice/nginx.service/worker", "unit nginx.service - - nginx.service"),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            "unit getty@tty1.service - - getty@tty1.service",
        ),
        ("/system.slice/cups.socket", "unit cups.socket - - cups.socket"),
        ("/system.slice/_cpu.service", "unit cpu.service - - cpu.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session 3 - - session-3.scope"),
        ("/user.slice/user-0.slice/session-c1.scope/sub", "session c1 - - session-c1.scope"),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-foo@autostart.service",
            "unit app-foo@autostart.service - - app-foo@autostart.service",
        ),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", "unit init.scope - - init.scope"),
        // A scope called session- elsewhere is no login session.
        ("/system.slice/session-3.scope", "unit session-3.scope - - session-3.scope"),
    ]);
}

#[test]
fn lookalikes_are_not_believed() {
    check(&[
        ("/podfoo", "host - - - -"),
        ("/pod$U/x", "host - - - -"),
        ("/kubepods/burstable/podfoo/x", "host - - - -"),
        ("/kubepods/bursty/pod$U", "host - - - -"),
        ("/kubepods/burstable/pod$U/kata_overhead", "pod - - $U -"),
        ("/kubepods-pod$_.slice", "unit kubepods-pod$_.slice - - kubepods-pod$_.slice"),
        (
            "/mykubepods.slice/mykubepods-pod$_.slice",
            "unit mykubepods-pod$_.slice - - mykubepods-pod$_.slice",
        ),
        ("/docker/short", "host - - - -"),
        ("/docker/$Aa", "host - - - -"),
        ("/system.slice/docker-short.scope", "unit docker-short.scope - - docker-short.scope"),
        ("/system.slice/evil-docker-$A.scope", "unit evil-docker-$A.scope - - evil-docker-$A.scope"),
        ("/system.slice/docker.service", "unit docker.service - - docker.service"),
        ("/lxc.payload.", "host - - - -"),
        ("/lxc", "host - - - -"),
        ("/system.slice/machine-a.scope", "unit machine-a.scope - - machine-a.scope"),
        ("/a.slice::b", "host - - - -"),
        ("/a.slice:b:", "host - - - -"),
    ]);
}

#[test]
fn strange_bytes_are_escaped_and_claim_nothing() {
    for path in [&b"/a\x1b[2Jb"[..], b"/\xff\xfe", "/a\u{202e}b".as_bytes(), b"/a\nb", b"//\0/"] {
        let workload = Workload::from_cgroup(path);
        assert_eq!(workload.kind, Kind::Host);
        assert_eq!(workload.cgroup, Some(Untrusted::new(path)));
    }
    let machine = Workload::from_cgroup(b"/lxc.payload.a\x1b\xff");
    assert_eq!(machine.id.unwrap().as_str(), r"a\x1b\xff");
    let unescaped = Workload::from_cgroup(br"/machine.slice/machine-a\x1bb.scope");
    assert_eq!(unescaped.id.unwrap().as_str(), r"a\x1bb");
}

#[test]
fn of_two_hierarchies_the_more_telling_one_is_believed() {
    let both = |v2: Option<&str>, v1: Option<&str>| {
        let (v2, v1) = (v2.map(fill), v1.map(fill));
        let workload =
            Workload::from_cgroups(v2.as_deref().map(str::as_bytes), v1.as_deref().map(str::as_bytes));
        (summary(&workload), workload.cgroup.map(|cgroup| cgroup.as_str().to_owned()))
    };
    let is = |text: &str, cgroup: &str| (fill(text), Some(fill(cgroup)));
    assert_eq!(both(Some("/"), Some("/docker/$A")), is("container $A docker - -", "/docker/$A"));
    assert_eq!(both(Some("/docker/$A"), Some("/")), is("container $A docker - -", "/docker/$A"));
    assert_eq!(
        both(Some("/system.slice/docker-$A.scope"), Some("/system.slice/docker-$A.scope/docker/$B")),
        is("container $B docker - docker-$A.scope", "/system.slice/docker-$A.scope/docker/$B")
    );
    assert_eq!(both(Some("/leaky"), Some("/parent/leaky")).1.unwrap(), "/parent/leaky");
    assert_eq!(both(Some("/leaky"), Some("/")).1.unwrap(), "/leaky");
    // systemd-nspawn makes `payload` on v2 only.
    assert_eq!(
        both(Some("/machine.slice/machine-a.scope/payload"), Some("/machine.slice/machine-a.scope")).0,
        "machine a nspawn - machine-a.scope"
    );
    assert_eq!(both(Some("/$A"), Some("/docker/$A")).0, fill("container $A docker - -"));
    assert_eq!(both(None, Some("/init.scope")).0, "unit init.scope - - init.scope");
    assert_eq!(both(None, None), ("host - - - -".to_owned(), None));
}

#[test]
fn no_combination_of_names_panics_or_loses_the_path() {
    let names = fill(
        "kubepods kubepods.slice burstable pod$U pod$H pod kubepods-pod$_.slice kubepods-pod$_.slice:cri-containerd:$A \
         a.slice:b:c docker $A lxc lxc.payload lxc.payload.a lxc.monitor.a machine.slice machine-a.scope payload \
         supervisor systemd-nspawn@a.service buildkit user-1.slice session-1.scope crio-conmon-$A runc-a.scope - . .. \
         libpod-$A.scope _.scope -pod.slice",
    );
    let names: Vec<&str> = names.split(' ').collect();
    for first in &names {
        for second in &names {
            for third in &names {
                let path = format!("/{first}/{second}/{third}");
                let workload = Workload::from_cgroup(path.as_bytes());
                assert_eq!(
                    workload.id.is_none(),
                    workload.kind == Kind::Host || is_bare_pod(&workload),
                    "{path}"
                );
                assert_eq!(workload.cgroup, Some(Untrusted::from(&*path)));
            }
        }
    }
}

fn is_bare_pod(workload: &Workload) -> bool {
    workload.kind == Kind::Pod && workload.id.is_none() && workload.pod_uid.is_some()
}
