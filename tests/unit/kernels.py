# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Six kernels as their BTF and their memory.stat show them.

From mm/memcontrol.c, linux/memcontrol.h, linux/mmzone.h and linux/vm_event_item.h of the
released kernels, with swap, NUMA balancing, huge pages and zswap configured in.
"""

from __future__ import annotations

from typing import NamedTuple

from pymemcgbpf._bpf.btf import KernelTypes, Member

NODE, MEMCG, EVENT = "node_stat_item", "memcg_stat_item", "vm_event_item"


_MEMORY_EVENTS = """
    MEMCG_LOW MEMCG_HIGH MEMCG_MAX MEMCG_OOM MEMCG_OOM_KILL MEMCG_OOM_GROUP_KILL
    MEMCG_SWAP_HIGH MEMCG_SWAP_MAX MEMCG_SWAP_FAIL MEMCG_NR_MEMORY_EVENTS
"""
_PSI = "PSI_IO_SOME PSI_IO_FULL PSI_MEM_SOME PSI_MEM_FULL PSI_CPU_SOME"

# Somewhere; the same everywhere.
_STRUCTS = {
    "mem_cgroup": {
        "css": Member(0),
        "memory": Member(256),
        "swap": Member(512),
        "memsw": Member(512),  # a union
        "zswap_max": Member(800),
        "vmstats": Member(880, 0, True),
        "vmstats_percpu": Member(888, 0, True),
        "memory_events": Member(896, 9),
        "memory_events_local": Member(968, 9),
        "nodeinfo": Member(1984, 0),
    },
    "page_counter": {
        "usage": Member(0),
        "watermark": Member(64),
        "failcnt": Member(72),
        "min": Member(88),
        "low": Member(96),
        "high": Member(112),
        "max": Member(104),
        "parent": Member(128, 0, True),
    },
    "cgroup": {
        "self": Member(0),
        "level": Member(232),
        "kn": Member(256, 0, True),
        "subtree_control": Member(296),
        "subsys": Member(304, 14),
        "psi": Member(1272, 0, True),
    },
    "cgroup_subsys_state": {
        "sibling": Member(144),
        "children": Member(160),
        "flags": Member(180),
        "serial_nr": Member(184),
        "parent": Member(288, 0, True),
    },
    "psi_group": {"enabled": Member(8), "total": Member(240, 2)},
    # How an open directory leads to its cgroup.
    "task_struct": {"files": Member(2992, 0, True)},
    "files_struct": {"fdt": Member(32, 0, True)},
    "fdtable": {"max_fds": Member(0), "fd": Member(8, 0, True)},
    "file": {"f_inode": Member(168, 0, True)},
    "super_block": {"s_magic": Member(96)},
    "inode": {"i_sb": Member(40, 0, True), "i_private": Member(568, 0, True)},
    "kernfs_node": {
        "name": Member(16, 0, True),
        "hash": Member(56),
        "priv": Member(88, 0, True),
        "id": Member(96),
    },
}


# The arrays of counters: members of struct mem_cgroup, of a structure in it, or of one that it
# points to.
ARRAYS, EMBEDDED, POINTER = "arrays", "embedded", "pointer"
VMSTATS_AT, NODE_STATS_AT, HUGE_PAGE = 1152, 888, 2 << 20


class Kernel(NamedTuple):
    """One kernel's facts, as words.

    Attributes:
        node, memcg, event: the three enums in their order; "A=B" has B's value.
        state: what state[] holds, in its order; "" where it is the enums' own.
        events: what events[] holds, in its order; "" where it is the enum's own.
        printed: memory.stat's keys on cgroup v2, in their order.
        functions: which of the probed functions there are.
        orders: how many orders a cgroup iterator knows, "unspecified" among them.
        form: where the two arrays are.
        global_only: enumerators that have a slot, but are not counted for each cgroup.
    """

    node: str
    memcg: str
    event: str
    state: str
    events: str
    printed: str
    functions: str
    orders: int = 5
    form: str = POINTER
    global_only: str = ""

    def counters(self) -> dict[str, tuple[str, int]]:
        """Enumerator's name → (its enum, its value), as BTF gives it."""
        found: dict[str, tuple[str, int]] = {}
        for enum, words in ((NODE, self.node), (MEMCG, self.memcg), (EVENT, self.event)):
            value = -1
            for word in words.split():
                name, _, alias = word.partition("=")
                value = found[alias][1] if alias else value + 1
                found[name] = (enum, value)
        return found

    def types(self) -> KernelTypes:
        """What pymemcgbpf._bpf.btf would have read."""
        counters = self.counters()
        state = len(self.state.split()) or counters["MEMCG_NR_STAT"][1]
        events = len(self.events.split()) or counters["NR_VM_EVENT_ITEMS"][1]
        found = KernelTypes(
            counters,
            4,
            frozenset(self.functions.split()),
            frozenset(range(self.orders)),
            {name: at for words in (_MEMORY_EVENTS, _PSI) for at, name in enumerate(words.split())},
            {
                **_STRUCTS,
                "memcg_vmstats": {
                    "state": Member(0, state),
                    "events": Member(8 * state, events),
                    "state_pending": Member(8 * (state + events), state),
                    "events_pending": Member(8 * (2 * state + events), events),
                },
                "memcg_vmstats_percpu": {
                    "state": Member(24, state),
                    "events": Member(24 + 8 * state, events),
                    "state_prev": Member(24 + 8 * (state + events), state),
                    "events_prev": Member(24 + 8 * (2 * state + events), events),
                },
                # Until Linux 6.10 the statistics are in the structure itself.
                "mem_cgroup_per_node": {"lruvec_stats": Member(NODE_STATS_AT, 0, bool(self.state))},
                "lruvec_stats": {"state": Member(0 if self.state else 16, self._node_counters())},
            },
        )
        return found if self.form == POINTER else self._older(found, state, events)

    def _older(self, types: KernelTypes, state: int, events: int) -> KernelTypes:
        """The same with the structures of a kernel before 6.0."""
        structs = dict(types.structs)
        vmstats = {"vmstats": Member(VMSTATS_AT)}
        structs["cgroup"] = {"psi": Member(1272)}
        structs["psi_group"] = {"total": Member(240, 2)}
        if self.form == ARRAYS:
            vmstats = {
                "vmstats": Member(VMSTATS_AT, state),
                "vmevents": Member(VMSTATS_AT + 8 * state, events),
            }
            del structs["memcg_vmstats"], structs["lruvec_stats"]
            per_node = {"lruvec_stat": Member(NODE_STATS_AT, self._node_counters())}
            structs["mem_cgroup_per_node"] = per_node
            types = types._replace(huge_page_size=HUGE_PAGE)
        structs["mem_cgroup"] = {**structs["mem_cgroup"], **vmstats}
        return types._replace(structs=structs)

    def _node_counters(self) -> int:
        counters = self.counters()
        if not self.state:
            return counters["NR_VM_NODE_STAT_ITEMS"][1]
        return sum(counters[name][0] == NODE for name in self.state.split())

    def slots(self) -> dict[str, int]:
        """Where the kernel keeps each counter: the truth that a layout must tell."""
        counters = self.counters()
        state, events = self.state.split(), self.events.split()
        found = {name: at for at, name in enumerate(state)}
        start = len(state)
        if not state:
            start = counters["MEMCG_NR_STAT"][1]
            found = {name: value for name, (enum, value) in counters.items() if enum != EVENT}
        found.update((name, start + at) for at, name in enumerate(events))
        if not events:
            its = {name: value for name, (enum, value) in counters.items() if enum == EVENT}
            found.update((name, start + value) for name, value in its.items())
        unkept = self.global_only.split()
        return {name: slot for name, slot in found.items() if name not in unkept}


LINUX_5_10 = Kernel(
    node="""
        NR_LRU_BASE NR_INACTIVE_ANON=NR_LRU_BASE NR_ACTIVE_ANON NR_INACTIVE_FILE
        NR_ACTIVE_FILE NR_UNEVICTABLE NR_SLAB_RECLAIMABLE_B
        NR_SLAB_UNRECLAIMABLE_B NR_ISOLATED_ANON NR_ISOLATED_FILE WORKINGSET_NODES
        WORKINGSET_REFAULT_BASE WORKINGSET_REFAULT_ANON=WORKINGSET_REFAULT_BASE
        WORKINGSET_REFAULT_FILE WORKINGSET_ACTIVATE_BASE
        WORKINGSET_ACTIVATE_ANON=WORKINGSET_ACTIVATE_BASE WORKINGSET_ACTIVATE_FILE
        WORKINGSET_RESTORE_BASE WORKINGSET_RESTORE_ANON=WORKINGSET_RESTORE_BASE
        WORKINGSET_RESTORE_FILE WORKINGSET_NODERECLAIM NR_ANON_MAPPED
        NR_FILE_MAPPED NR_FILE_PAGES NR_FILE_DIRTY NR_WRITEBACK NR_WRITEBACK_TEMP
        NR_SHMEM NR_SHMEM_THPS NR_SHMEM_PMDMAPPED NR_FILE_THPS NR_FILE_PMDMAPPED
        NR_ANON_THPS NR_VMSCAN_WRITE NR_VMSCAN_IMMEDIATE NR_DIRTIED NR_WRITTEN
        NR_KERNEL_MISC_RECLAIMABLE NR_FOLL_PIN_ACQUIRED NR_FOLL_PIN_RELEASED
        NR_KERNEL_STACK_KB NR_VM_NODE_STAT_ITEMS
    """,
    memcg="""
        MEMCG_SWAP=NR_VM_NODE_STAT_ITEMS MEMCG_SOCK MEMCG_PERCPU_B MEMCG_NR_STAT
    """,
    event="""
        PGPGIN PGPGOUT PSWPIN PSWPOUT PGALLOC_DMA PGALLOC_DMA32 PGALLOC_NORMAL
        PGALLOC_MOVABLE ALLOCSTALL_DMA ALLOCSTALL_DMA32 ALLOCSTALL_NORMAL
        ALLOCSTALL_MOVABLE PGSCAN_SKIP_DMA PGSCAN_SKIP_DMA32 PGSCAN_SKIP_NORMAL
        PGSCAN_SKIP_MOVABLE PGFREE PGACTIVATE PGDEACTIVATE PGLAZYFREE PGFAULT
        PGMAJFAULT PGLAZYFREED PGREFILL PGREUSE PGSTEAL_KSWAPD PGSTEAL_DIRECT
        PGSCAN_KSWAPD PGSCAN_DIRECT PGSCAN_DIRECT_THROTTLE PGSCAN_ANON PGSCAN_FILE
        PGSTEAL_ANON PGSTEAL_FILE PGSCAN_ZONE_RECLAIM_FAILED PGINODESTEAL
        SLABS_SCANNED KSWAPD_INODESTEAL KSWAPD_LOW_WMARK_HIT_QUICKLY
        KSWAPD_HIGH_WMARK_HIT_QUICKLY PAGEOUTRUN PGROTATED DROP_PAGECACHE
        DROP_SLAB OOM_KILL NUMA_PTE_UPDATES NUMA_HUGE_PTE_UPDATES NUMA_HINT_FAULTS
        NUMA_HINT_FAULTS_LOCAL NUMA_PAGE_MIGRATE PGMIGRATE_SUCCESS PGMIGRATE_FAIL
        THP_MIGRATION_SUCCESS THP_MIGRATION_FAIL THP_MIGRATION_SPLIT
        COMPACTMIGRATE_SCANNED COMPACTFREE_SCANNED COMPACTISOLATED COMPACTSTALL
        COMPACTFAIL COMPACTSUCCESS KCOMPACTD_WAKE KCOMPACTD_MIGRATE_SCANNED
        KCOMPACTD_FREE_SCANNED HTLB_BUDDY_PGALLOC HTLB_BUDDY_PGALLOC_FAIL
        UNEVICTABLE_PGCULLED UNEVICTABLE_PGSCANNED UNEVICTABLE_PGRESCUED
        UNEVICTABLE_PGMLOCKED UNEVICTABLE_PGMUNLOCKED UNEVICTABLE_PGCLEARED
        UNEVICTABLE_PGSTRANDED THP_FAULT_ALLOC THP_FAULT_FALLBACK
        THP_FAULT_FALLBACK_CHARGE THP_COLLAPSE_ALLOC THP_COLLAPSE_ALLOC_FAILED
        THP_FILE_ALLOC THP_FILE_FALLBACK THP_FILE_FALLBACK_CHARGE THP_FILE_MAPPED
        THP_SPLIT_PAGE THP_SPLIT_PAGE_FAILED THP_DEFERRED_SPLIT_PAGE THP_SPLIT_PMD
        THP_SPLIT_PUD THP_ZERO_PAGE_ALLOC THP_ZERO_PAGE_ALLOC_FAILED THP_SWPOUT
        THP_SWPOUT_FALLBACK BALLOON_INFLATE BALLOON_DEFLATE BALLOON_MIGRATE
        SWAP_RA SWAP_RA_HIT NR_VM_EVENT_ITEMS
    """,
    state="",
    events="",
    printed="""
        anon file kernel_stack percpu sock shmem file_mapped file_dirty
        file_writeback anon_thp inactive_anon active_anon inactive_file
        active_file unevictable slab_reclaimable slab_unreclaimable slab
        workingset_refault_anon workingset_refault_file workingset_activate_anon
        workingset_activate_file workingset_restore_anon workingset_restore_file
        workingset_nodereclaim pgfault pgmajfault pgrefill pgscan pgsteal
        pgactivate pgdeactivate pglazyfree pglazyfreed thp_fault_alloc
        thp_collapse_alloc
    """,
    functions="cgroup_rstat_flush bpf_prog_test_run_raw_tp",
    orders=0,
    form=ARRAYS,
    global_only="""
        NR_FILE_THPS NR_SHMEM_THPS PSWPIN PSWPOUT THP_SWPOUT THP_SWPOUT_FALLBACK
        NUMA_PAGE_MIGRATE NUMA_PTE_UPDATES NUMA_HINT_FAULTS NR_VMSCAN_WRITE
    """,
)

LINUX_5_15 = Kernel(
    node="""
        NR_LRU_BASE NR_INACTIVE_ANON=NR_LRU_BASE NR_ACTIVE_ANON NR_INACTIVE_FILE
        NR_ACTIVE_FILE NR_UNEVICTABLE NR_SLAB_RECLAIMABLE_B
        NR_SLAB_UNRECLAIMABLE_B NR_ISOLATED_ANON NR_ISOLATED_FILE WORKINGSET_NODES
        WORKINGSET_REFAULT_BASE WORKINGSET_REFAULT_ANON=WORKINGSET_REFAULT_BASE
        WORKINGSET_REFAULT_FILE WORKINGSET_ACTIVATE_BASE
        WORKINGSET_ACTIVATE_ANON=WORKINGSET_ACTIVATE_BASE WORKINGSET_ACTIVATE_FILE
        WORKINGSET_RESTORE_BASE WORKINGSET_RESTORE_ANON=WORKINGSET_RESTORE_BASE
        WORKINGSET_RESTORE_FILE WORKINGSET_NODERECLAIM NR_ANON_MAPPED
        NR_FILE_MAPPED NR_FILE_PAGES NR_FILE_DIRTY NR_WRITEBACK NR_WRITEBACK_TEMP
        NR_SHMEM NR_SHMEM_THPS NR_SHMEM_PMDMAPPED NR_FILE_THPS NR_FILE_PMDMAPPED
        NR_ANON_THPS NR_VMSCAN_WRITE NR_VMSCAN_IMMEDIATE NR_DIRTIED NR_WRITTEN
        NR_KERNEL_MISC_RECLAIMABLE NR_FOLL_PIN_ACQUIRED NR_FOLL_PIN_RELEASED
        NR_KERNEL_STACK_KB NR_PAGETABLE NR_SWAPCACHE NR_VM_NODE_STAT_ITEMS
    """,
    memcg="""
        MEMCG_SWAP=NR_VM_NODE_STAT_ITEMS MEMCG_SOCK MEMCG_PERCPU_B MEMCG_NR_STAT
    """,
    event="""
        PGPGIN PGPGOUT PSWPIN PSWPOUT PGALLOC_DMA PGALLOC_DMA32 PGALLOC_NORMAL
        PGALLOC_MOVABLE ALLOCSTALL_DMA ALLOCSTALL_DMA32 ALLOCSTALL_NORMAL
        ALLOCSTALL_MOVABLE PGSCAN_SKIP_DMA PGSCAN_SKIP_DMA32 PGSCAN_SKIP_NORMAL
        PGSCAN_SKIP_MOVABLE PGFREE PGACTIVATE PGDEACTIVATE PGLAZYFREE PGFAULT
        PGMAJFAULT PGLAZYFREED PGREFILL PGREUSE PGSTEAL_KSWAPD PGSTEAL_DIRECT
        PGDEMOTE_KSWAPD PGDEMOTE_DIRECT PGSCAN_KSWAPD PGSCAN_DIRECT
        PGSCAN_DIRECT_THROTTLE PGSCAN_ANON PGSCAN_FILE PGSTEAL_ANON PGSTEAL_FILE
        PGSCAN_ZONE_RECLAIM_FAILED PGINODESTEAL SLABS_SCANNED KSWAPD_INODESTEAL
        KSWAPD_LOW_WMARK_HIT_QUICKLY KSWAPD_HIGH_WMARK_HIT_QUICKLY PAGEOUTRUN
        PGROTATED DROP_PAGECACHE DROP_SLAB OOM_KILL NUMA_PTE_UPDATES
        NUMA_HUGE_PTE_UPDATES NUMA_HINT_FAULTS NUMA_HINT_FAULTS_LOCAL
        NUMA_PAGE_MIGRATE PGMIGRATE_SUCCESS PGMIGRATE_FAIL THP_MIGRATION_SUCCESS
        THP_MIGRATION_FAIL THP_MIGRATION_SPLIT COMPACTMIGRATE_SCANNED
        COMPACTFREE_SCANNED COMPACTISOLATED COMPACTSTALL COMPACTFAIL
        COMPACTSUCCESS KCOMPACTD_WAKE KCOMPACTD_MIGRATE_SCANNED
        KCOMPACTD_FREE_SCANNED HTLB_BUDDY_PGALLOC HTLB_BUDDY_PGALLOC_FAIL
        CMA_ALLOC_SUCCESS CMA_ALLOC_FAIL UNEVICTABLE_PGCULLED
        UNEVICTABLE_PGSCANNED UNEVICTABLE_PGRESCUED UNEVICTABLE_PGMLOCKED
        UNEVICTABLE_PGMUNLOCKED UNEVICTABLE_PGCLEARED UNEVICTABLE_PGSTRANDED
        THP_FAULT_ALLOC THP_FAULT_FALLBACK THP_FAULT_FALLBACK_CHARGE
        THP_COLLAPSE_ALLOC THP_COLLAPSE_ALLOC_FAILED THP_FILE_ALLOC
        THP_FILE_FALLBACK THP_FILE_FALLBACK_CHARGE THP_FILE_MAPPED THP_SPLIT_PAGE
        THP_SPLIT_PAGE_FAILED THP_DEFERRED_SPLIT_PAGE THP_SPLIT_PMD THP_SPLIT_PUD
        THP_ZERO_PAGE_ALLOC THP_ZERO_PAGE_ALLOC_FAILED THP_SWPOUT
        THP_SWPOUT_FALLBACK BALLOON_INFLATE BALLOON_DEFLATE BALLOON_MIGRATE
        SWAP_RA SWAP_RA_HIT DIRECT_MAP_LEVEL2_SPLIT DIRECT_MAP_LEVEL3_SPLIT
        NR_VM_EVENT_ITEMS
    """,
    state="",
    events="",
    printed="""
        anon file kernel_stack pagetables percpu sock shmem file_mapped file_dirty
        file_writeback swapcached anon_thp file_thp shmem_thp inactive_anon
        active_anon inactive_file active_file unevictable slab_reclaimable
        slab_unreclaimable slab workingset_refault_anon workingset_refault_file
        workingset_activate_anon workingset_activate_file workingset_restore_anon
        workingset_restore_file workingset_nodereclaim pgfault pgmajfault pgrefill
        pgscan pgsteal pgactivate pgdeactivate pglazyfree pglazyfreed
        thp_fault_alloc thp_collapse_alloc
    """,
    functions="cgroup_rstat_flush bpf_prog_test_run_raw_tp",
    orders=0,
    form=EMBEDDED,
    global_only="""
        PGDEMOTE_KSWAPD PGDEMOTE_DIRECT PSWPIN PSWPOUT THP_SWPOUT
        THP_SWPOUT_FALLBACK NUMA_PAGE_MIGRATE NUMA_PTE_UPDATES NUMA_HINT_FAULTS
        NR_VMSCAN_WRITE
    """,
)

LINUX_6_1 = Kernel(
    node="""
        NR_LRU_BASE NR_INACTIVE_ANON=NR_LRU_BASE NR_ACTIVE_ANON NR_INACTIVE_FILE
        NR_ACTIVE_FILE NR_UNEVICTABLE NR_SLAB_RECLAIMABLE_B NR_SLAB_UNRECLAIMABLE_B
        NR_ISOLATED_ANON NR_ISOLATED_FILE WORKINGSET_NODES WORKINGSET_REFAULT_BASE
        WORKINGSET_REFAULT_ANON=WORKINGSET_REFAULT_BASE WORKINGSET_REFAULT_FILE
        WORKINGSET_ACTIVATE_BASE WORKINGSET_ACTIVATE_ANON=WORKINGSET_ACTIVATE_BASE
        WORKINGSET_ACTIVATE_FILE WORKINGSET_RESTORE_BASE
        WORKINGSET_RESTORE_ANON=WORKINGSET_RESTORE_BASE WORKINGSET_RESTORE_FILE
        WORKINGSET_NODERECLAIM NR_ANON_MAPPED NR_FILE_MAPPED NR_FILE_PAGES NR_FILE_DIRTY
        NR_WRITEBACK NR_WRITEBACK_TEMP NR_SHMEM NR_SHMEM_THPS NR_SHMEM_PMDMAPPED
        NR_FILE_THPS NR_FILE_PMDMAPPED NR_ANON_THPS NR_VMSCAN_WRITE NR_VMSCAN_IMMEDIATE
        NR_DIRTIED NR_WRITTEN NR_THROTTLED_WRITTEN NR_KERNEL_MISC_RECLAIMABLE
        NR_FOLL_PIN_ACQUIRED NR_FOLL_PIN_RELEASED NR_KERNEL_STACK_KB NR_PAGETABLE
        NR_SECONDARY_PAGETABLE NR_SWAPCACHE PGPROMOTE_SUCCESS PGPROMOTE_CANDIDATE
        NR_VM_NODE_STAT_ITEMS
    """,
    memcg="""
        MEMCG_SWAP=NR_VM_NODE_STAT_ITEMS MEMCG_SOCK MEMCG_PERCPU_B MEMCG_VMALLOC
        MEMCG_KMEM MEMCG_ZSWAP_B MEMCG_ZSWAPPED MEMCG_NR_STAT
    """,
    event="""
        PGPGIN PGPGOUT PSWPIN PSWPOUT PGALLOC_DMA PGALLOC_DMA32 PGALLOC_NORMAL
        PGALLOC_MOVABLE ALLOCSTALL_DMA ALLOCSTALL_DMA32 ALLOCSTALL_NORMAL
        ALLOCSTALL_MOVABLE PGSCAN_SKIP_DMA PGSCAN_SKIP_DMA32 PGSCAN_SKIP_NORMAL
        PGSCAN_SKIP_MOVABLE PGFREE PGACTIVATE PGDEACTIVATE PGLAZYFREE PGFAULT PGMAJFAULT
        PGLAZYFREED PGREFILL PGREUSE PGSTEAL_KSWAPD PGSTEAL_DIRECT PGDEMOTE_KSWAPD
        PGDEMOTE_DIRECT PGSCAN_KSWAPD PGSCAN_DIRECT PGSCAN_DIRECT_THROTTLE PGSCAN_ANON
        PGSCAN_FILE PGSTEAL_ANON PGSTEAL_FILE PGSCAN_ZONE_RECLAIM_FAILED PGINODESTEAL
        SLABS_SCANNED KSWAPD_INODESTEAL KSWAPD_LOW_WMARK_HIT_QUICKLY
        KSWAPD_HIGH_WMARK_HIT_QUICKLY PAGEOUTRUN PGROTATED DROP_PAGECACHE DROP_SLAB
        OOM_KILL NUMA_PTE_UPDATES NUMA_HUGE_PTE_UPDATES NUMA_HINT_FAULTS
        NUMA_HINT_FAULTS_LOCAL NUMA_PAGE_MIGRATE PGMIGRATE_SUCCESS PGMIGRATE_FAIL
        THP_MIGRATION_SUCCESS THP_MIGRATION_FAIL THP_MIGRATION_SPLIT
        COMPACTMIGRATE_SCANNED COMPACTFREE_SCANNED COMPACTISOLATED COMPACTSTALL
        COMPACTFAIL COMPACTSUCCESS KCOMPACTD_WAKE KCOMPACTD_MIGRATE_SCANNED
        KCOMPACTD_FREE_SCANNED HTLB_BUDDY_PGALLOC HTLB_BUDDY_PGALLOC_FAIL
        UNEVICTABLE_PGCULLED UNEVICTABLE_PGSCANNED UNEVICTABLE_PGRESCUED
        UNEVICTABLE_PGMLOCKED UNEVICTABLE_PGMUNLOCKED UNEVICTABLE_PGCLEARED
        UNEVICTABLE_PGSTRANDED THP_FAULT_ALLOC THP_FAULT_FALLBACK
        THP_FAULT_FALLBACK_CHARGE THP_COLLAPSE_ALLOC THP_COLLAPSE_ALLOC_FAILED
        THP_FILE_ALLOC THP_FILE_FALLBACK THP_FILE_FALLBACK_CHARGE THP_FILE_MAPPED
        THP_SPLIT_PAGE THP_SPLIT_PAGE_FAILED THP_DEFERRED_SPLIT_PAGE THP_SPLIT_PMD
        THP_SCAN_EXCEED_NONE_PTE THP_SCAN_EXCEED_SWAP_PTE THP_SCAN_EXCEED_SHARED_PTE
        THP_ZERO_PAGE_ALLOC THP_ZERO_PAGE_ALLOC_FAILED THP_SWPOUT THP_SWPOUT_FALLBACK
        BALLOON_INFLATE BALLOON_DEFLATE BALLOON_MIGRATE SWAP_RA SWAP_RA_HIT
        KSM_SWPIN_COPY COW_KSM ZSWPIN ZSWPOUT DIRECT_MAP_LEVEL2_SPLIT
        DIRECT_MAP_LEVEL3_SPLIT NR_VM_EVENT_ITEMS
    """,
    state="",
    events="""
        PGPGIN PGPGOUT PGSCAN_KSWAPD PGSCAN_DIRECT PGSTEAL_KSWAPD PGSTEAL_DIRECT PGFAULT
        PGMAJFAULT PGREFILL PGACTIVATE PGDEACTIVATE PGLAZYFREE PGLAZYFREED ZSWPIN
        ZSWPOUT THP_FAULT_ALLOC THP_COLLAPSE_ALLOC
    """,
    printed="""
        anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc
        shmem zswap zswapped file_mapped file_dirty file_writeback swapcached anon_thp
        file_thp shmem_thp inactive_anon active_anon inactive_file active_file
        unevictable slab_reclaimable slab_unreclaimable slab workingset_refault_anon
        workingset_refault_file workingset_activate_anon workingset_activate_file
        workingset_restore_anon workingset_restore_file workingset_nodereclaim pgscan
        pgsteal pgscan_kswapd pgscan_direct pgsteal_kswapd pgsteal_direct pgfault
        pgmajfault pgrefill pgactivate pgdeactivate pglazyfree pglazyfreed zswpin
        zswpout thp_fault_alloc thp_collapse_alloc
    """,
    functions="cgroup_rstat_flush bpf_prog_test_run_raw_tp bpf_loop",
    global_only="PGPROMOTE_SUCCESS NR_VMSCAN_WRITE",
)

LINUX_6_12 = Kernel(
    node="""
        NR_LRU_BASE NR_INACTIVE_ANON=NR_LRU_BASE NR_ACTIVE_ANON NR_INACTIVE_FILE
        NR_ACTIVE_FILE NR_UNEVICTABLE NR_SLAB_RECLAIMABLE_B NR_SLAB_UNRECLAIMABLE_B
        NR_ISOLATED_ANON NR_ISOLATED_FILE WORKINGSET_NODES WORKINGSET_REFAULT_BASE
        WORKINGSET_REFAULT_ANON=WORKINGSET_REFAULT_BASE WORKINGSET_REFAULT_FILE
        WORKINGSET_ACTIVATE_BASE WORKINGSET_ACTIVATE_ANON=WORKINGSET_ACTIVATE_BASE
        WORKINGSET_ACTIVATE_FILE WORKINGSET_RESTORE_BASE
        WORKINGSET_RESTORE_ANON=WORKINGSET_RESTORE_BASE WORKINGSET_RESTORE_FILE
        WORKINGSET_NODERECLAIM NR_ANON_MAPPED NR_FILE_MAPPED NR_FILE_PAGES NR_FILE_DIRTY
        NR_WRITEBACK NR_WRITEBACK_TEMP NR_SHMEM NR_SHMEM_THPS NR_SHMEM_PMDMAPPED
        NR_FILE_THPS NR_FILE_PMDMAPPED NR_ANON_THPS NR_VMSCAN_WRITE NR_VMSCAN_IMMEDIATE
        NR_DIRTIED NR_WRITTEN NR_THROTTLED_WRITTEN NR_KERNEL_MISC_RECLAIMABLE
        NR_FOLL_PIN_ACQUIRED NR_FOLL_PIN_RELEASED NR_KERNEL_STACK_KB NR_PAGETABLE
        NR_SECONDARY_PAGETABLE NR_IOMMU_PAGES NR_SWAPCACHE PGPROMOTE_SUCCESS
        PGPROMOTE_CANDIDATE PGDEMOTE_KSWAPD PGDEMOTE_DIRECT PGDEMOTE_KHUGEPAGED
        NR_VM_NODE_STAT_ITEMS
    """,
    memcg="""
        MEMCG_SWAP=NR_VM_NODE_STAT_ITEMS MEMCG_SOCK MEMCG_PERCPU_B MEMCG_VMALLOC
        MEMCG_KMEM MEMCG_ZSWAP_B MEMCG_ZSWAPPED MEMCG_NR_STAT
    """,
    event="""
        PGPGIN PGPGOUT PSWPIN PSWPOUT PGALLOC_DMA PGALLOC_DMA32 PGALLOC_NORMAL
        PGALLOC_MOVABLE ALLOCSTALL_DMA ALLOCSTALL_DMA32 ALLOCSTALL_NORMAL
        ALLOCSTALL_MOVABLE PGSCAN_SKIP_DMA PGSCAN_SKIP_DMA32 PGSCAN_SKIP_NORMAL
        PGSCAN_SKIP_MOVABLE PGFREE PGACTIVATE PGDEACTIVATE PGLAZYFREE PGFAULT PGMAJFAULT
        PGLAZYFREED PGREFILL PGREUSE PGSTEAL_KSWAPD PGSTEAL_DIRECT PGSTEAL_KHUGEPAGED
        PGSCAN_KSWAPD PGSCAN_DIRECT PGSCAN_KHUGEPAGED PGSCAN_DIRECT_THROTTLE PGSCAN_ANON
        PGSCAN_FILE PGSTEAL_ANON PGSTEAL_FILE PGSCAN_ZONE_RECLAIM_SUCCESS
        PGSCAN_ZONE_RECLAIM_FAILED PGINODESTEAL SLABS_SCANNED KSWAPD_INODESTEAL
        KSWAPD_LOW_WMARK_HIT_QUICKLY KSWAPD_HIGH_WMARK_HIT_QUICKLY PAGEOUTRUN PGROTATED
        DROP_PAGECACHE DROP_SLAB OOM_KILL NUMA_PTE_UPDATES NUMA_HUGE_PTE_UPDATES
        NUMA_HINT_FAULTS NUMA_HINT_FAULTS_LOCAL NUMA_PAGE_MIGRATE PGMIGRATE_SUCCESS
        PGMIGRATE_FAIL THP_MIGRATION_SUCCESS THP_MIGRATION_FAIL THP_MIGRATION_SPLIT
        COMPACTMIGRATE_SCANNED COMPACTFREE_SCANNED COMPACTISOLATED COMPACTSTALL
        COMPACTFAIL COMPACTSUCCESS KCOMPACTD_WAKE KCOMPACTD_MIGRATE_SCANNED
        KCOMPACTD_FREE_SCANNED HTLB_BUDDY_PGALLOC HTLB_BUDDY_PGALLOC_FAIL
        UNEVICTABLE_PGCULLED UNEVICTABLE_PGSCANNED UNEVICTABLE_PGRESCUED
        UNEVICTABLE_PGMLOCKED UNEVICTABLE_PGMUNLOCKED UNEVICTABLE_PGCLEARED
        UNEVICTABLE_PGSTRANDED THP_FAULT_ALLOC THP_FAULT_FALLBACK
        THP_FAULT_FALLBACK_CHARGE THP_COLLAPSE_ALLOC THP_COLLAPSE_ALLOC_FAILED
        THP_FILE_ALLOC THP_FILE_FALLBACK THP_FILE_FALLBACK_CHARGE THP_FILE_MAPPED
        THP_SPLIT_PAGE THP_SPLIT_PAGE_FAILED THP_DEFERRED_SPLIT_PAGE
        THP_UNDERUSED_SPLIT_PAGE THP_SPLIT_PMD THP_SCAN_EXCEED_NONE_PTE
        THP_SCAN_EXCEED_SWAP_PTE THP_SCAN_EXCEED_SHARED_PTE THP_ZERO_PAGE_ALLOC
        THP_ZERO_PAGE_ALLOC_FAILED THP_SWPOUT THP_SWPOUT_FALLBACK BALLOON_INFLATE
        BALLOON_DEFLATE BALLOON_MIGRATE SWAP_RA SWAP_RA_HIT SWPIN_ZERO SWPOUT_ZERO
        KSM_SWPIN_COPY COW_KSM ZSWPIN ZSWPOUT ZSWPWB DIRECT_MAP_LEVEL2_SPLIT
        DIRECT_MAP_LEVEL3_SPLIT NR_VM_EVENT_ITEMS
    """,
    state="""
        NR_INACTIVE_ANON NR_ACTIVE_ANON NR_INACTIVE_FILE NR_ACTIVE_FILE NR_UNEVICTABLE
        NR_SLAB_RECLAIMABLE_B NR_SLAB_UNRECLAIMABLE_B WORKINGSET_REFAULT_ANON
        WORKINGSET_REFAULT_FILE WORKINGSET_ACTIVATE_ANON WORKINGSET_ACTIVATE_FILE
        WORKINGSET_RESTORE_ANON WORKINGSET_RESTORE_FILE WORKINGSET_NODERECLAIM
        NR_ANON_MAPPED NR_FILE_MAPPED NR_FILE_PAGES NR_FILE_DIRTY NR_WRITEBACK NR_SHMEM
        NR_SHMEM_THPS NR_FILE_THPS NR_ANON_THPS NR_KERNEL_STACK_KB NR_PAGETABLE
        NR_SECONDARY_PAGETABLE NR_SWAPCACHE PGPROMOTE_SUCCESS PGDEMOTE_KSWAPD
        PGDEMOTE_DIRECT PGDEMOTE_KHUGEPAGED MEMCG_SWAP MEMCG_SOCK MEMCG_PERCPU_B
        MEMCG_VMALLOC MEMCG_KMEM MEMCG_ZSWAP_B MEMCG_ZSWAPPED
    """,
    events="""
        PGPGIN PGPGOUT PGSCAN_KSWAPD PGSCAN_DIRECT PGSCAN_KHUGEPAGED PGSTEAL_KSWAPD
        PGSTEAL_DIRECT PGSTEAL_KHUGEPAGED PGFAULT PGMAJFAULT PGREFILL PGACTIVATE
        PGDEACTIVATE PGLAZYFREE PGLAZYFREED SWPIN_ZERO SWPOUT_ZERO ZSWPIN ZSWPOUT ZSWPWB
        THP_FAULT_ALLOC THP_COLLAPSE_ALLOC THP_SWPOUT THP_SWPOUT_FALLBACK
        NUMA_PAGE_MIGRATE NUMA_PTE_UPDATES NUMA_HINT_FAULTS
    """,
    printed="""
        anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc
        shmem zswap zswapped file_mapped file_dirty file_writeback swapcached anon_thp
        file_thp shmem_thp inactive_anon active_anon inactive_file active_file
        unevictable slab_reclaimable slab_unreclaimable slab workingset_refault_anon
        workingset_refault_file workingset_activate_anon workingset_activate_file
        workingset_restore_anon workingset_restore_file workingset_nodereclaim
        pgdemote_kswapd pgdemote_direct pgdemote_khugepaged pgpromote_success pgscan
        pgsteal pgscan_kswapd pgscan_direct pgscan_khugepaged pgsteal_kswapd
        pgsteal_direct pgsteal_khugepaged pgfault pgmajfault pgrefill pgactivate
        pgdeactivate pglazyfree pglazyfreed swpin_zero swpout_zero zswpin zswpout zswpwb
        thp_fault_alloc thp_collapse_alloc thp_swpout thp_swpout_fallback
        numa_pages_migrated numa_pte_updates numa_hint_faults
    """,
    functions="""
        cgroup_rstat_flush bpf_cgroup_from_id bpf_iter_css_new bpf_prog_test_run_raw_tp
        bpf_loop bpf_wq_start
    """,
)

LINUX_6_18 = Kernel(
    node="""
        NR_LRU_BASE NR_INACTIVE_ANON=NR_LRU_BASE NR_ACTIVE_ANON NR_INACTIVE_FILE
        NR_ACTIVE_FILE NR_UNEVICTABLE NR_SLAB_RECLAIMABLE_B NR_SLAB_UNRECLAIMABLE_B
        NR_ISOLATED_ANON NR_ISOLATED_FILE WORKINGSET_NODES WORKINGSET_REFAULT_BASE
        WORKINGSET_REFAULT_ANON=WORKINGSET_REFAULT_BASE WORKINGSET_REFAULT_FILE
        WORKINGSET_ACTIVATE_BASE WORKINGSET_ACTIVATE_ANON=WORKINGSET_ACTIVATE_BASE
        WORKINGSET_ACTIVATE_FILE WORKINGSET_RESTORE_BASE
        WORKINGSET_RESTORE_ANON=WORKINGSET_RESTORE_BASE WORKINGSET_RESTORE_FILE
        WORKINGSET_NODERECLAIM NR_ANON_MAPPED NR_FILE_MAPPED NR_FILE_PAGES NR_FILE_DIRTY
        NR_WRITEBACK NR_SHMEM NR_SHMEM_THPS NR_SHMEM_PMDMAPPED NR_FILE_THPS
        NR_FILE_PMDMAPPED NR_ANON_THPS NR_VMSCAN_WRITE NR_VMSCAN_IMMEDIATE NR_DIRTIED
        NR_WRITTEN NR_THROTTLED_WRITTEN NR_KERNEL_MISC_RECLAIMABLE NR_FOLL_PIN_ACQUIRED
        NR_FOLL_PIN_RELEASED NR_KERNEL_STACK_KB NR_PAGETABLE NR_SECONDARY_PAGETABLE
        NR_IOMMU_PAGES NR_SWAPCACHE PGPROMOTE_SUCCESS PGPROMOTE_CANDIDATE
        PGPROMOTE_CANDIDATE_NRL PGDEMOTE_KSWAPD PGDEMOTE_DIRECT PGDEMOTE_KHUGEPAGED
        PGDEMOTE_PROACTIVE NR_HUGETLB NR_BALLOON_PAGES NR_KERNEL_FILE_PAGES
        NR_VM_NODE_STAT_ITEMS
    """,
    memcg="""
        MEMCG_SWAP=NR_VM_NODE_STAT_ITEMS MEMCG_SOCK MEMCG_PERCPU_B MEMCG_VMALLOC
        MEMCG_KMEM MEMCG_ZSWAP_B MEMCG_ZSWAPPED MEMCG_NR_STAT
    """,
    event="""
        PGPGIN PGPGOUT PSWPIN PSWPOUT PGALLOC_DMA PGALLOC_DMA32 PGALLOC_NORMAL
        PGALLOC_MOVABLE ALLOCSTALL_DMA ALLOCSTALL_DMA32 ALLOCSTALL_NORMAL
        ALLOCSTALL_MOVABLE PGSCAN_SKIP_DMA PGSCAN_SKIP_DMA32 PGSCAN_SKIP_NORMAL
        PGSCAN_SKIP_MOVABLE PGFREE PGACTIVATE PGDEACTIVATE PGLAZYFREE PGFAULT PGMAJFAULT
        PGLAZYFREED PGREFILL PGREUSE PGSTEAL_KSWAPD PGSTEAL_DIRECT PGSTEAL_KHUGEPAGED
        PGSTEAL_PROACTIVE PGSCAN_KSWAPD PGSCAN_DIRECT PGSCAN_KHUGEPAGED PGSCAN_PROACTIVE
        PGSCAN_DIRECT_THROTTLE PGSCAN_ANON PGSCAN_FILE PGSTEAL_ANON PGSTEAL_FILE
        PGSCAN_ZONE_RECLAIM_SUCCESS PGSCAN_ZONE_RECLAIM_FAILED PGINODESTEAL
        SLABS_SCANNED KSWAPD_INODESTEAL KSWAPD_LOW_WMARK_HIT_QUICKLY
        KSWAPD_HIGH_WMARK_HIT_QUICKLY PAGEOUTRUN PGROTATED DROP_PAGECACHE DROP_SLAB
        OOM_KILL NUMA_PTE_UPDATES NUMA_HUGE_PTE_UPDATES NUMA_HINT_FAULTS
        NUMA_HINT_FAULTS_LOCAL NUMA_PAGE_MIGRATE PGMIGRATE_SUCCESS PGMIGRATE_FAIL
        THP_MIGRATION_SUCCESS THP_MIGRATION_FAIL THP_MIGRATION_SPLIT
        COMPACTMIGRATE_SCANNED COMPACTFREE_SCANNED COMPACTISOLATED COMPACTSTALL
        COMPACTFAIL COMPACTSUCCESS KCOMPACTD_WAKE KCOMPACTD_MIGRATE_SCANNED
        KCOMPACTD_FREE_SCANNED HTLB_BUDDY_PGALLOC HTLB_BUDDY_PGALLOC_FAIL
        UNEVICTABLE_PGCULLED UNEVICTABLE_PGSCANNED UNEVICTABLE_PGRESCUED
        UNEVICTABLE_PGMLOCKED UNEVICTABLE_PGMUNLOCKED UNEVICTABLE_PGCLEARED
        UNEVICTABLE_PGSTRANDED THP_FAULT_ALLOC THP_FAULT_FALLBACK
        THP_FAULT_FALLBACK_CHARGE THP_COLLAPSE_ALLOC THP_COLLAPSE_ALLOC_FAILED
        THP_FILE_ALLOC THP_FILE_FALLBACK THP_FILE_FALLBACK_CHARGE THP_FILE_MAPPED
        THP_SPLIT_PAGE THP_SPLIT_PAGE_FAILED THP_DEFERRED_SPLIT_PAGE
        THP_UNDERUSED_SPLIT_PAGE THP_SPLIT_PMD THP_SCAN_EXCEED_NONE_PTE
        THP_SCAN_EXCEED_SWAP_PTE THP_SCAN_EXCEED_SHARED_PTE THP_ZERO_PAGE_ALLOC
        THP_ZERO_PAGE_ALLOC_FAILED THP_SWPOUT THP_SWPOUT_FALLBACK BALLOON_INFLATE
        BALLOON_DEFLATE BALLOON_MIGRATE SWAP_RA SWAP_RA_HIT SWPIN_ZERO SWPOUT_ZERO
        KSM_SWPIN_COPY COW_KSM ZSWPIN ZSWPOUT ZSWPWB DIRECT_MAP_LEVEL2_SPLIT
        DIRECT_MAP_LEVEL3_SPLIT NR_VM_EVENT_ITEMS
    """,
    state="""
        NR_INACTIVE_ANON NR_ACTIVE_ANON NR_INACTIVE_FILE NR_ACTIVE_FILE NR_UNEVICTABLE
        NR_SLAB_RECLAIMABLE_B NR_SLAB_UNRECLAIMABLE_B WORKINGSET_REFAULT_ANON
        WORKINGSET_REFAULT_FILE WORKINGSET_ACTIVATE_ANON WORKINGSET_ACTIVATE_FILE
        WORKINGSET_RESTORE_ANON WORKINGSET_RESTORE_FILE WORKINGSET_NODERECLAIM
        NR_ANON_MAPPED NR_FILE_MAPPED NR_FILE_PAGES NR_FILE_DIRTY NR_WRITEBACK NR_SHMEM
        NR_SHMEM_THPS NR_FILE_THPS NR_ANON_THPS NR_KERNEL_STACK_KB NR_PAGETABLE
        NR_SECONDARY_PAGETABLE NR_SWAPCACHE PGPROMOTE_SUCCESS PGDEMOTE_KSWAPD
        PGDEMOTE_DIRECT PGDEMOTE_KHUGEPAGED PGDEMOTE_PROACTIVE NR_HUGETLB MEMCG_SWAP
        MEMCG_SOCK MEMCG_PERCPU_B MEMCG_VMALLOC MEMCG_KMEM MEMCG_ZSWAP_B MEMCG_ZSWAPPED
    """,
    events="""
        PGPGIN PGPGOUT PSWPIN PSWPOUT PGSCAN_KSWAPD PGSCAN_DIRECT PGSCAN_KHUGEPAGED
        PGSCAN_PROACTIVE PGSTEAL_KSWAPD PGSTEAL_DIRECT PGSTEAL_KHUGEPAGED
        PGSTEAL_PROACTIVE PGFAULT PGMAJFAULT PGREFILL PGACTIVATE PGDEACTIVATE PGLAZYFREE
        PGLAZYFREED SWPIN_ZERO SWPOUT_ZERO ZSWPIN ZSWPOUT ZSWPWB THP_FAULT_ALLOC
        THP_COLLAPSE_ALLOC THP_SWPOUT THP_SWPOUT_FALLBACK NUMA_PAGE_MIGRATE
        NUMA_PTE_UPDATES NUMA_HINT_FAULTS
    """,
    printed="""
        anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc
        shmem zswap zswapped file_mapped file_dirty file_writeback swapcached anon_thp
        file_thp shmem_thp inactive_anon active_anon inactive_file active_file
        unevictable slab_reclaimable slab_unreclaimable slab hugetlb
        workingset_refault_anon workingset_refault_file workingset_activate_anon
        workingset_activate_file workingset_restore_anon workingset_restore_file
        workingset_nodereclaim pgdemote_kswapd pgdemote_direct pgdemote_khugepaged
        pgdemote_proactive pgpromote_success pgscan pgsteal pswpin pswpout pgscan_kswapd
        pgscan_direct pgscan_khugepaged pgscan_proactive pgsteal_kswapd pgsteal_direct
        pgsteal_khugepaged pgsteal_proactive pgfault pgmajfault pgrefill pgactivate
        pgdeactivate pglazyfree pglazyfreed swpin_zero swpout_zero zswpin zswpout zswpwb
        thp_fault_alloc thp_collapse_alloc thp_swpout thp_swpout_fallback
        numa_pages_migrated numa_pte_updates numa_hint_faults
    """,
    functions="""
        bpf_cgroup_from_id bpf_iter_css_new bpf_prog_test_run_raw_tp
        bpf_loop bpf_wq_start
    """,
)

LINUX_7_3 = Kernel(
    node="""
        NR_LRU_BASE NR_INACTIVE_ANON=NR_LRU_BASE NR_ACTIVE_ANON NR_INACTIVE_FILE
        NR_ACTIVE_FILE NR_UNEVICTABLE NR_SLAB_RECLAIMABLE_B NR_SLAB_UNRECLAIMABLE_B
        NR_ISOLATED_ANON NR_ISOLATED_FILE WORKINGSET_NODES WORKINGSET_REFAULT_BASE
        WORKINGSET_REFAULT_ANON=WORKINGSET_REFAULT_BASE WORKINGSET_REFAULT_FILE
        WORKINGSET_ACTIVATE_BASE WORKINGSET_ACTIVATE_ANON=WORKINGSET_ACTIVATE_BASE
        WORKINGSET_ACTIVATE_FILE WORKINGSET_RESTORE_BASE
        WORKINGSET_RESTORE_ANON=WORKINGSET_RESTORE_BASE WORKINGSET_RESTORE_FILE
        WORKINGSET_NODERECLAIM NR_ANON_MAPPED NR_FILE_MAPPED NR_FILE_PAGES NR_FILE_DIRTY
        NR_WRITEBACK NR_SHMEM NR_SHMEM_THPS NR_SHMEM_PMDMAPPED NR_FILE_THPS
        NR_FILE_PMDMAPPED NR_ANON_THPS NR_VMSCAN_WRITE NR_VMSCAN_IMMEDIATE NR_DIRTIED
        NR_WRITTEN NR_THROTTLED_WRITTEN NR_KERNEL_MISC_RECLAIMABLE NR_FOLL_PIN_ACQUIRED
        NR_FOLL_PIN_RELEASED NR_VMALLOC NR_KERNEL_STACK_KB NR_PAGETABLE
        NR_SECONDARY_PAGETABLE NR_IOMMU_PAGES NR_SWAPCACHE PGPROMOTE_SUCCESS
        PGPROMOTE_CANDIDATE PGPROMOTE_CANDIDATE_NRL PGDEMOTE_KSWAPD PGDEMOTE_DIRECT
        PGDEMOTE_KHUGEPAGED PGDEMOTE_PROACTIVE PGSTEAL_KSWAPD PGSTEAL_DIRECT
        PGSTEAL_KHUGEPAGED PGSTEAL_PROACTIVE PGSTEAL_ANON PGSTEAL_FILE PGSCAN_KSWAPD
        PGSCAN_DIRECT PGSCAN_KHUGEPAGED PGSCAN_PROACTIVE PGSCAN_ANON PGSCAN_FILE
        PGROTATE_ANON PGROTATE_FILE PGREFILL NR_HUGETLB NR_BALLOON_PAGES
        NR_KERNEL_FILE_PAGES NR_GPU_ACTIVE NR_GPU_RECLAIM NR_VM_NODE_STAT_ITEMS
    """,
    memcg="""
        MEMCG_SWAP=NR_VM_NODE_STAT_ITEMS MEMCG_SOCK MEMCG_PERCPU_B MEMCG_KMEM
        MEMCG_ZSWAP_B MEMCG_ZSWAPPED MEMCG_ZSWAP_INCOMP MEMCG_NR_STAT
    """,
    event="""
        PGPGIN PGPGOUT PSWPIN PSWPOUT PGALLOC_DMA PGALLOC_DMA32 PGALLOC_NORMAL
        PGALLOC_MOVABLE ALLOCSTALL_DMA ALLOCSTALL_DMA32 ALLOCSTALL_NORMAL
        ALLOCSTALL_MOVABLE PGSCAN_SKIP_DMA PGSCAN_SKIP_DMA32 PGSCAN_SKIP_NORMAL
        PGSCAN_SKIP_MOVABLE PGFREE PGACTIVATE PGDEACTIVATE PGLAZYFREE PGFAULT PGMAJFAULT
        PGLAZYFREED PGREUSE PGSCAN_DIRECT_THROTTLE PGSCAN_ZONE_RECLAIM_SUCCESS
        PGSCAN_ZONE_RECLAIM_FAILED PGINODESTEAL SLABS_SCANNED KSWAPD_INODESTEAL
        KSWAPD_LOW_WMARK_HIT_QUICKLY KSWAPD_HIGH_WMARK_HIT_QUICKLY PAGEOUTRUN PGROTATED
        DROP_PAGECACHE DROP_SLAB OOM_KILL NUMA_PTE_UPDATES NUMA_HUGE_PTE_UPDATES
        NUMA_HINT_FAULTS NUMA_HINT_FAULTS_LOCAL NUMA_PAGE_MIGRATE PGMIGRATE_SUCCESS
        PGMIGRATE_FAIL THP_MIGRATION_SUCCESS THP_MIGRATION_FAIL THP_MIGRATION_SPLIT
        COMPACTMIGRATE_SCANNED COMPACTFREE_SCANNED COMPACTISOLATED COMPACTSTALL
        COMPACTFAIL COMPACTSUCCESS KCOMPACTD_WAKE KCOMPACTD_MIGRATE_SCANNED
        KCOMPACTD_FREE_SCANNED HTLB_BUDDY_PGALLOC HTLB_BUDDY_PGALLOC_FAIL
        UNEVICTABLE_PGCULLED UNEVICTABLE_PGSCANNED UNEVICTABLE_PGRESCUED
        UNEVICTABLE_PGMLOCKED UNEVICTABLE_PGMUNLOCKED UNEVICTABLE_PGCLEARED
        UNEVICTABLE_PGSTRANDED THP_FAULT_ALLOC THP_FAULT_FALLBACK
        THP_FAULT_FALLBACK_CHARGE THP_COLLAPSE_ALLOC THP_COLLAPSE_ALLOC_FAILED
        THP_FILE_ALLOC THP_FILE_FALLBACK THP_FILE_FALLBACK_CHARGE THP_FILE_MAPPED
        THP_SPLIT_PAGE THP_SPLIT_PAGE_FAILED THP_DEFERRED_SPLIT_PAGE
        THP_UNDERUSED_SPLIT_PAGE THP_SPLIT_PMD THP_SCAN_EXCEED_NONE_PTE
        THP_SCAN_EXCEED_SWAP_PTE THP_SCAN_EXCEED_SHARED_PTE THP_ZERO_PAGE_ALLOC
        THP_ZERO_PAGE_ALLOC_FAILED THP_SWPOUT THP_SWPOUT_FALLBACK BALLOON_INFLATE
        BALLOON_DEFLATE BALLOON_MIGRATE SWAP_RA SWAP_RA_HIT SWPIN_ZERO SWPOUT_ZERO
        KSM_SWPIN_COPY COW_KSM ZSWPIN ZSWPOUT ZSWPWB DIRECT_MAP_LEVEL2_SPLIT
        DIRECT_MAP_LEVEL3_SPLIT DIRECT_MAP_LEVEL2_COLLAPSE DIRECT_MAP_LEVEL3_COLLAPSE
        NRSWPIN NRSWPOUT NR_VM_EVENT_ITEMS
    """,
    state="""
        NR_INACTIVE_ANON NR_ACTIVE_ANON NR_INACTIVE_FILE NR_ACTIVE_FILE NR_UNEVICTABLE
        NR_SLAB_RECLAIMABLE_B NR_SLAB_UNRECLAIMABLE_B WORKINGSET_REFAULT_ANON
        WORKINGSET_REFAULT_FILE WORKINGSET_ACTIVATE_ANON WORKINGSET_ACTIVATE_FILE
        WORKINGSET_RESTORE_ANON WORKINGSET_RESTORE_FILE WORKINGSET_NODERECLAIM
        NR_ANON_MAPPED NR_FILE_MAPPED NR_FILE_PAGES NR_FILE_DIRTY NR_WRITEBACK NR_SHMEM
        NR_SHMEM_THPS NR_FILE_THPS NR_ANON_THPS NR_VMSCAN_WRITE NR_VMALLOC
        NR_KERNEL_STACK_KB NR_PAGETABLE NR_SECONDARY_PAGETABLE NR_SWAPCACHE
        PGPROMOTE_SUCCESS PGDEMOTE_KSWAPD PGDEMOTE_DIRECT PGDEMOTE_KHUGEPAGED
        PGDEMOTE_PROACTIVE PGSTEAL_KSWAPD PGSTEAL_DIRECT PGSTEAL_KHUGEPAGED
        PGSTEAL_PROACTIVE PGSTEAL_ANON PGSTEAL_FILE PGSCAN_KSWAPD PGSCAN_DIRECT
        PGSCAN_KHUGEPAGED PGSCAN_PROACTIVE PGSCAN_ANON PGSCAN_FILE PGROTATE_ANON
        PGROTATE_FILE PGREFILL NR_HUGETLB MEMCG_SWAP MEMCG_SOCK MEMCG_PERCPU_B
        MEMCG_KMEM MEMCG_ZSWAP_B MEMCG_ZSWAPPED MEMCG_ZSWAP_INCOMP
    """,
    events="""
        PSWPIN PSWPOUT PGFAULT PGMAJFAULT PGACTIVATE PGDEACTIVATE PGLAZYFREE PGLAZYFREED
        SWPIN_ZERO SWPOUT_ZERO ZSWPIN ZSWPOUT ZSWPWB THP_FAULT_ALLOC THP_COLLAPSE_ALLOC
        THP_SWPOUT THP_SWPOUT_FALLBACK NUMA_PAGE_MIGRATE NUMA_PTE_UPDATES
        NUMA_HINT_FAULTS
    """,
    printed="""
        anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc
        shmem zswap zswapped zswap_incomp file_mapped file_dirty file_writeback
        swapcached anon_thp file_thp shmem_thp inactive_anon active_anon inactive_file
        active_file unevictable slab_reclaimable slab_unreclaimable slab hugetlb
        workingset_refault_anon workingset_refault_file workingset_activate_anon
        workingset_activate_file workingset_restore_anon workingset_restore_file
        workingset_nodereclaim pgdemote_kswapd pgdemote_direct pgdemote_khugepaged
        pgdemote_proactive pgsteal_kswapd pgsteal_direct pgsteal_khugepaged
        pgsteal_proactive pgscan_kswapd pgscan_direct pgscan_khugepaged pgscan_proactive
        pgrefill pgpromote_success pgscan pgsteal pswpin pswpout pgfault pgmajfault
        pgactivate pgdeactivate pglazyfree pglazyfreed swpin_zero swpout_zero zswpin
        zswpout zswpwb thp_fault_alloc thp_collapse_alloc thp_swpout thp_swpout_fallback
        numa_pages_migrated numa_pte_updates numa_hint_faults
    """,
    functions="""
        bpf_get_mem_cgroup bpf_mem_cgroup_flush_stats bpf_cgroup_from_id bpf_iter_css_new
        bpf_prog_test_run_raw_tp bpf_loop bpf_wq_start bpf_wq_set_callback
    """,
    orders=6,
)

KERNELS = {"6.1": LINUX_6_1, "6.12": LINUX_6_12, "6.18": LINUX_6_18, "7.3": LINUX_7_3}
# Kernels whose enumerators are the indices of both arrays.
DIRECT = {"5.10": LINUX_5_10, "5.15": LINUX_5_15}
