#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# The guest's process 1: mounts the usual file systems, runs the job, reports and powers off.
# The host takes the guest for lost unless it receives the last record that is written below.

/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TERM=dumb
umask 022

mkdir -p /proc /sys /dev /tmp /root /run /mnt/ramfs /mnt/disk
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
chmod 1777 /tmp /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
# Files in tmpfs are counted as shmem. Files in these two are page cache, and only those on the disk
# become dirty and are written back. If the kernel finds no disk, the guest fails.
mount -t ramfs ramfs /mnt/ramfs
tenths=300
while [ ! -b /dev/nvme0n1 ] && [ $tenths -gt 0 ]; do
    sleep 0.1
    tenths=$((tenths - 1))
done
mount -t ext4 /dev/nvme0n1 /mnt/disk || { echo 'lab: no disk'; exit 1; }

read -r controllers </sys/fs/cgroup/cgroup.controllers
for controller in $controllers; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
ifconfig lo 127.0.0.1 up
hostname lab
# Kernel errors go to the console too, because the console is all that a lost guest leaves.
echo 4 >/proc/sys/kernel/printk

# shellcheck source=/dev/null
. /opt/lab/environment
cd /opt/lab || exit 1
stty -F "$LAB_RESULTS" raw -echo
# SIGABRT makes Python print where it hung. The host's time limit is for guests that cannot do this.
timeout -s ABRT "$LAB_SECONDS" python3 -X faulthandler -m lab_guest.guest_job \
    </dev/null >/dev/console 2>&1
status=$?

# An unfinished last line of the kernel log is printed only when another line follows it.
echo "lab: the job has ended" >/dev/kmsg
# The first newline ends a line that the job may have left unfinished.
{
    echo
    dmesg | sed 's/^/#/'
    echo "{\"record\": \"end\", \"status\": $status}"
} >"$LAB_RESULTS"
poweroff -f
