#!/bin/sh
# What a node's network holds, in files that `netlab trace --observed NODE=DIR` reads. Run it as root, on the node:
#
#   sh snapshot.sh [--force] DIR
#
# It changes nothing on the node, and needs nothing but a POSIX shell and the tools that it asks. Every file is written
# whole or not at all. One line per file says what was done; a tool that is missing costs its files, not the others.
# Exit code: 0 done, 1 a tool failed (the other files are there), 2 nothing could be written or the arguments are wrong.
set -u
LC_ALL=C
export LC_ALL
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
proc=/proc
sys=/sys

written=0   # files
answered=0  # of them, what a tool said
failed=0    # tools that are there and did not do it
kept=       # names of files that were written
gone=       # and of those that were not
packages=   # Debian packages that would help
dir=
made_dir=

report() { printf '%-16s %s\n' "$1" "$2"; }
warn() { printf 'snapshot: warning: %s\n' "$1" >&2; }
die() { printf 'snapshot: error: %s\n' "$1" >&2; clean; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }
clean() {
    [ -n "$dir" ] || return 0
    rm -f "$dir"/.netlab-snapshot.*
    [ -z "$made_dir" ] || rmdir "$dir" 2>/dev/null
}
usage() {
    echo 'usage: sh snapshot.sh [--force] DIR'
    echo '  Writes what this node'"'"'s network holds (rules, sets, devices, addresses, routes ...) into files in DIR.'
    echo '  --force: also into a directory that has files already; those of an earlier snapshot are replaced.'
}

# ask NAME COMMAND...: what COMMAND prints, in the file $tmp; its exit code in $rc, the first line of its stderr in $said.
# Everything goes through cat, which notices that a disk is full; many tools do not.
ask() {
    tmp=$dir/.netlab-snapshot.$1
    shift
    rm -f "$tmp"
    said=$({
        { "$@" 2>&3; echo "netlab-exit $?" >&3; } | { set -C; cat >"$tmp"; } 2>&3 || echo netlab-not-written >&3
    } 3>&1 </dev/null)
    rc=$(printf '%s\n' "$said" | sed -n 's/.*netlab-exit \([0-9]*\)$/\1/p')
    case $said in *netlab-not-written*) rc=74 ;; esac  # EX_IOERR
    said=$(printf '%s\n' "$said" | sed -e 's/netlab-exit [0-9]*$//' -e '/^netlab-not-written$/d' -e '/^[[:space:]]*$/d' |
        if [ "$rc" = 74 ]; then tail -n 1; else head -n 1; fi)
}

# keep NAME TEXT: $tmp becomes the file NAME.
keep() {
    if [ -d "$dir/$1" ] || ! mv -f "$tmp" "$dir/$1"; then
        not_kept "$1" "$dir/$1 cannot be replaced"
        return 1
    fi
    written=$((written + 1))
    answered=$((answered + 1))
    kept="$kept $1"
    report "$1" "written: $2"
}

# write_text NAME TEXT REASON: a file whose content is certain without asking a tool.
write_text() {
    ask "$1" printf '%s' "$2"
    if [ "$rc" = 0 ]; then keep "$1" "$3" && answered=$((answered - 1)); else not_kept "$1" "$said"; fi
}

# why COMMAND: what COMMAND complained of.
why() {
    case $said in
        '') echo "$1: exit code $rc" ;;
        "${1%% *}"*) echo "$said" ;;
        *) echo "$1: $said" ;;
    esac
}

not_kept() {
    rm -f "$tmp"
    failed=1
    gone="$gone $1"
    report "$1" "NOT written: $2"
}

# missing NAME TOOL PACKAGE
missing() {
    gone="$gone $1"
    case " $packages " in *" $3 "*) ;; *) packages="$packages${packages:+ }$3" ;; esac
    report "$1" "not written: there is no $2 here; on Debian and Ubuntu: apt-get install $3"
}

many() { if [ "$1" = 1 ]; then echo "1 $2"; else echo "$1 $2s"; fi; }

# --- iptables

# Rules, and chains that drop by policy; a table of empty chains that accept does nothing.
count_rules() { grep -c -e '^-A' -e '^:[^ ]* DROP' "$1"; }

# The kernel holds the rules of iptables-legacy and those of iptables-nft beside each other and obeys both; a tool sees one kind.
variant_of() {
    case $("$1" --version 2>/dev/null || "${1%-save}" --version 2>/dev/null) in
        *nf_tables*) echo nft ;;
        *) echo legacy ;;
    esac
}

# save_rules NAME PROC_FILE NFT_FAMILY: NAME is iptables-save or ip6tables-save, also the name of the tool.
save_rules() {
    base=${1%-save}
    tool=
    for candidate in "$1" "$base-nft-save" "$base-legacy-save"; do
        if have "$candidate"; then tool=$candidate; break; fi
    done
    if [ -z "$tool" ]; then
        missing "$1" "$1" iptables
        tables=$(cat "$2" 2>/dev/null)
        [ -z "$tables" ] || warn "the kernel has rules of $base-legacy (tables $(echo $tables)), which nothing here can read"
        return
    fi
    ask "$1" "$tool"
    if [ "$rc" != 0 ]; then
        not_kept "$1" "$(why "$tool")"
        return
    fi
    mine=$tmp
    mine_has=$(count_rules "$mine")
    tool_kind=$(variant_of "$tool")
    if [ "$tool_kind" = nft ]; then other=legacy; else other=nft; fi

    # The other variant. That of legacy is asked only where the kernel has its tables; nothing is loaded by looking.
    other_tool=$base-$other-save
    other_has=0
    other_tables=
    if [ "$other" = legacy ]; then
        other_tables=$(cat "$2" 2>/dev/null)
    elif have nft; then
        other_tables=$(nft list tables "$3" 2>/dev/null | sed -n "s/^table $3 \(raw\|mangle\|nat\|filter\|security\)\$/\1/p")
    elif have "$other_tool"; then
        other_tables=unknown
    fi
    if [ -n "$other_tables" ] && have "$other_tool"; then
        ask "$1.$other" "$other_tool"
        if [ "$rc" = 0 ]; then
            other_has=$(count_rules "$tmp")
        else
            warn "$(why "$other_tool"); whether $base-$other has rules too is not known"
        fi
    elif [ -n "$other_tables" ]; then
        warn "the kernel has tables of $base-$other too ($(echo $other_tables)), not in this snapshot: there is no $other_tool here"
    fi

    tmp=$mine
    how="$(many "$mine_has" rule) of $base-$tool_kind ($tool)"
    if [ "$other_has" -gt 0 ]; then
        theirs=$dir/.netlab-snapshot.$1.$other
        # Kubernetes' own chains tell which variant is in use, as kubernetes-sigs/iptables-wrappers has it.
        if [ "$mine_has" = 0 ] || { grep -q '^:KUBE-' "$theirs" && ! grep -q '^:KUBE-' "$mine"; }; then
            tmp=$theirs
            how="$(many "$other_has" rule) of $base-$other ($other_tool)"
            if [ "$mine_has" = 0 ]; then
                how="$how; $base-$tool_kind has none"
            else
                warn "$base-$tool_kind has $(many "$mine_has" rule) as well: Linux obeys them too, and they are not in this snapshot (taken: $base-$other, which has Kubernetes' chains)"
            fi
        else
            warn "$base-$other has $(many "$other_has" rule) as well: Linux obeys them too, and they are not in this snapshot (see $other_tool)"
        fi
    fi
    strange=$(sed -n "s/^# Table .\([a-z]*\). .*incompatible.*/\1/p" "$tmp")
    [ -z "$strange" ] || warn "table $(echo $strange) has rules that nft made and $1 does not show: they are in nft.json alone"
    keep "$1" "$how"
    rm -f "$dir/.netlab-snapshot.$1" "$dir/.netlab-snapshot.$1.$other"
}

# --- iproute2

# save_json NAME COMMAND...
save_json() {
    name=$1
    shift
    if ! have "$1"; then
        missing "$name" "$1" iproute2
        return
    fi
    ask "$name" "$@"
    version=$("$1" -V 2>/dev/null | head -n 1)
    if [ "$rc" = 0 ] && [ ! -s "$tmp" ]; then  # some versions print nothing where there is nothing
        rm -f "$tmp"
        write_text "$name" '[]' "$* (empty)"
    elif [ "$rc" = 0 ] && [ "$(dd if="$tmp" bs=1 count=1 2>/dev/null)" = '[' ]; then
        keep "$name" "$*"
    else
        case $rc,$said in
            0,* | *,BusyBox* | *-j*unknown* | *nrecognized\ option* | *nvalid\ option* | *illegal\ option*)
                rm -f "$tmp"
                gone="$gone $name"
                case " $packages " in *" iproute2 "*) ;; *) packages="$packages${packages:+ }iproute2" ;; esac
                report "$name" "not written: this $1 has no JSON for \"$*\" (${version:-not that of iproute2}); iproute2 4.18 or newer has"
                ;;
            *) not_kept "$name" "$(why "$*")" ;;
        esac
    fi
}

# --- the rest

save_sets() {
    if ! have ipset; then
        missing ipset ipset ipset
        return
    fi
    ask ipset ipset save
    if [ "$rc" = 0 ]; then
        keep ipset "$(many "$(grep -c '^create' "$tmp")" set)"
    elif [ -d "$sys/module" ] && [ ! -d "$sys/module/ip_set" ] && [ "$rc" != 74 ]; then
        rm -f "$tmp"
        write_text ipset '' 'empty, this kernel has no ipset'
    else
        not_kept ipset "$(why 'ipset save')"
    fi
}

save_nft() {
    if ! have nft; then
        missing nft.json nft nftables
        return
    fi
    ask nft.json nft -j list ruleset
    case $rc,$said in
        0,*) keep nft.json 'nft -j list ruleset' ;;
        *JSON*not*compiled*)
            rm -f "$tmp"
            gone="$gone nft.json"
            report nft.json "not written: this nft is built without JSON"
            ;;
        *) not_kept nft.json "$(why 'nft -j list ruleset')" ;;
    esac
}

save_ipvs() {
    # The file tells; ipvsadm would load the module just by being asked.
    if [ -d "$proc/net" ] && [ ! -e "$proc/net/ip_vs" ]; then
        write_text ipvsadm '' 'empty, IPVS is not in use'
    elif ! have ipvsadm; then
        missing ipvsadm ipvsadm ipvsadm
    else
        ask ipvsadm ipvsadm -S -n
        if [ "$rc" = 0 ]; then
            keep ipvsadm "$(many "$(grep -c '^-A' "$tmp")" 'virtual service')"
        else
            not_kept ipvsadm "$(why 'ipvsadm -S -n')"
        fi
    fi
}

save_sysctl() {
    if ! have sysctl; then
        missing sysctl sysctl procps
        return
    fi
    ask sysctl sysctl net
    # A few keys may be closed even to root (locked-down kernels), which makes an exit code: what counts is what came.
    if [ "$rc" != 74 ] && grep -q '^net\.ipv4\.ip_forward' "$tmp"; then
        keep sysctl "$(many "$(grep -c '^net\.' "$tmp")" value)"
    else
        not_kept sysctl "$(why 'sysctl net')"
    fi
}

# --- what is done

main() {
    force=
    while [ $# -gt 0 ]; do
        case $1 in
            --force) force=1 ;;
            -h | --help) usage; exit 0 ;;
            -*) usage >&2; die "unknown option $1" ;;
            '') usage >&2; die 'DIR is empty' ;;
            *)
                [ -z "${want-}" ] || { usage >&2; die "one directory, not both $want and $1"; }
                want=$1
                ;;
        esac
        shift
    done
    [ -n "${want-}" ] || { usage >&2; die 'say which directory to write to'; }
    [ "$(id -u)" = 0 ] || die 'only root can read the rules: run it with sudo'
    if [ -e "$want" ] && [ ! -d "$want" ]; then die "$want is not a directory"; fi
    if [ -d "$want" ]; then
        before=$(ls -A "$want") || die "$want cannot be read"
        [ -z "$before" ] || [ -n "$force" ] || die "$want is not empty; --force replaces the snapshot in it"
    else
        said=$(mkdir -p "$want" 2>&1) || die "${said:-$want cannot be made}"
        made_dir=1
    fi
    dir=$want
    trap 'clean; exit 130' INT
    trap 'clean; exit 143' TERM HUP
    rm -f "$dir"/.netlab-snapshot.*
    said=$({ : >"$dir/.netlab-snapshot.try"; } 2>&1) || die "cannot write in $dir${said:+ (${said##*: })}"

    save_rules iptables-save "$proc/net/ip_tables_names" ip
    if [ -d "$proc/net" ] && [ ! -e "$proc/net/if_inet6" ]; then
        write_text ip6tables-save '' 'empty, this kernel has no IPv6'
    else
        save_rules ip6tables-save "$proc/net/ip6_tables_names" ip6
    fi
    save_sets
    save_json ip-link.json ip -d -j link
    save_json ip-addr.json ip -j addr
    save_json ip-route.json ip -j route show table all
    save_json ip-rule.json ip -j rule
    if [ -d "$proc/net" ] && [ ! -e "$proc/net/if_inet6" ]; then
        write_text ip6-route.json '[]' 'empty, this kernel has no IPv6'
        write_text ip6-rule.json '[]' 'empty, this kernel has no IPv6'
    else
        save_json ip6-route.json ip -6 -j route show table all
        save_json ip6-rule.json ip -6 -j rule
    fi
    save_json ip-neigh.json ip -j neigh
    save_json fdb.json bridge -j fdb
    save_sysctl
    save_nft
    save_ipvs

    if [ "$answered" = 0 ]; then
        [ -z "$made_dir" ] || for name in $kept; do rm -f "$dir/$name"; done
        die "nothing could be written${packages:+; apt-get install $packages brings the tools}"
    fi
    for name in $gone; do  # a snapshot is of one moment: nothing of an earlier one stays
        if [ -f "$dir/$name" ]; then
            rm -f "$dir/$name"
            warn "$name of an earlier snapshot is removed, for this one has none"
        fi
    done
    made_dir=
    clean
    [ -z "$packages" ] || warn "for the files that are missing: apt-get install $packages"
    all=$(($(echo $gone | wc -w) + written))
    printf 'snapshot: of %s, %s of %s files, in %s\n' "$(uname -n)" "$written" "$all" "$dir"
    exit "$failed"
}

main "$@"  # the last line: a script that was cut on its way does nothing
