#!/bin/sh
# The first process of the user-mode Linux that uml.py starts: a root of its own in memory, then one command per request.
#
#   1. PID 1 on the host's files, read-only: an overlay in memory over them (nothing written inside reaches the host),
#      fresh /proc /sys /dev /run, UML's modules over /lib/modules, and the scratch directory, the one place shared with the host.
#   2. the same script again, inside that root: says "ready", then carries out the requests that come in on /dev/tty1.
#
# no-new-privs: mount(8) is setuid; where the host's files do not look like root's (a user namespace), it would drop our rights.
# NETLAB_MODULES comes from the kernel's command line: what is loaded because nothing asks the kernel for it by itself.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

case $1 in
    "")
        exec setpriv --no-new-privs /bin/sh "$0" root
        ;;

    root)
        set -e
        modules=/usr/lib/uml/modules
        mount -t proc proc /proc
        insmod "$modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko"
        mount -t tmpfs -o size=90% tmpfs /mnt
        mkdir /mnt/upper /mnt/work /mnt/root
        mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
        cd /mnt/root
        mkdir -p proc sys dev run lib/modules
        mount -t proc proc proc
        mount -t sysfs sysfs sys
        mount -t devtmpfs devtmpfs dev
        mkdir -p dev/pts dev/shm
        mount -t devpts -o ptmxmode=666 devpts dev/pts
        mount -t tmpfs tmpfs dev/shm
        mount -t tmpfs tmpfs run
        mkdir run/netlab-uml run/lock
        mount -t hostfs -o "${0%/*}" hostfs run/netlab-uml
        mount -t hostfs -o "ro,$modules" hostfs lib/modules
        exec chroot . /bin/sh /run/netlab-uml/init serve
        ;;

    serve)
        cd /run/netlab-uml || exit
        hostname uml
        echo 1 >/proc/sys/net/core/fb_tunnels_only_for_init_net # new namespaces have lo, and no tunl0 where ipip is loaded
        ip link set lo up
        for module in $(echo "$NETLAB_MODULES" | tr , ' '); do
            modprobe "$module" || { echo "netlab-uml: no kernel module $module" && exit 1; }
        done
        for table in /proc/sys/net/ipv[46]/neigh/default; do # one for all namespaces: room for thousands of pods
            echo 65536 >"$table/gc_thresh3"
            echo 32768 >"$table/gc_thresh2"
            echo 16384 >"$table/gc_thresh1"
        done
        stty raw -echo </dev/tty1 || exit
        exec 3</dev/tty1
        : >ready
        while read -r verb id <&3; do
            case $verb in
                run)
                    echo 2 >/proc/sys/vm/drop_caches # forget which of the host's files there were and were not
                    {
                        (exec setsid sh "$id"/command 3<&- <"$id"/stdin >"$id"/stdout 2>"$id"/stderr) # "Killed" is not its word
                        echo $? >"$id"/status
                    } &
                    ;;
                kill)
                    kill -s KILL -- "-$(cat "$id"/session)"
                    ;;
            esac
        done
        ;;
esac
