#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# The guest's process 1: give Linux its usual file systems, run the job, report, power off.
# The host takes a guest for lost unless the last line below has come through.

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
# tmpfs is counted as shmem. Files of these two are page cache; only the disk's get dirty and are
# written back. Where the kernel finds no disk the mount fails, and so does the guest.
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
# A kernel that is in trouble says so on the console too, which is all that is left of a lost guest.
echo 4 >/proc/sys/kernel/printk

# shellcheck source=/dev/null
. /opt/lab/environment
cd /opt/lab || exit 1
stty -F "$LAB_RESULTS" raw -echo
# ABRT makes Python say where it hung. The host's own limit is for a guest that cannot even do this.
timeout -s ABRT "$LAB_SECONDS" python3 -X faulthandler -m lab_guest.guest_job \
    </dev/null >/dev/console 2>&1
status=$?

# A last line without its end shows only when another follows it.
echo "lab: the job has ended" >/dev/kmsg
# On a line of its own, whatever the job was writing when it ended.
{
    echo
    dmesg | sed 's/^/#/'
    echo "{\"record\": \"end\", \"status\": $status}"
} >"$LAB_RESULTS"
poweroff -f
