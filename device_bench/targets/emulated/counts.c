/* Plugin of qemu-user 7.2: counts the AArch64 instructions a program executes, by class.
 *
 * A system call that would close the descriptor 424200 + N, which is never open, is mark N: all counts so far are
 * written to the file given by out=. Counts are of all threads together, added without a lock: run one thread.
 *
 * Vector instructions of the C and C++ libraries and of Python are not those of a model: they fill memory and grow
 * tables, as often as where it happens to lie makes it. They count as the rest. */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define FIRST_MARK 424200u
#define MARKS 100u
#define AARCH64_CLOSE 57
#define AARCH64_CLOSE_RANGE 436

/* The part of the emulator's interface that is used; Debian ships no header of it. */
typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0 };
typedef void (*translated_fn)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*syscall_fn)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_fn);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_fn);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = 1;

enum { ALL, SIMD, LDST, BRANCH, ALU, DOT, CLASSES };
static const char *const names[CLASSES] = {"all", "simd", "ldst", "branch", "alu", "dot"};
static uint64_t counts[CLASSES];
static FILE *out;

/* The top level of the A64 encoding: bits 25 to 28 of a word tell its group. */
static int class_of(uint32_t word) {
    uint32_t group = (word >> 25) & 0xf;
    if ((group & 0x5) == 0x4) return LDST;
    if ((group & 0x7) == 0x7) return SIMD;
    if ((group & 0xe) == 0xa) return BRANCH;
    return ALU;
}

/* SDOT and UDOT, of two vectors and by element. */
static int is_dot(uint32_t word) {
    return (word & 0x9f20fc00) == 0x0e009400 || (word & 0x9f00f400) == 0x0f00e000;
}

/* Files whose vector instructions are not a model's. */
static const char *const housekeepers[] = {"/libc.so", "/libstdc++.so", "/ld-linux-aarch64.so", "/bin/python3"};

struct range {
    uintptr_t start, end;
    int housekeeping;
};
static struct range ranges[4096];
static size_t n_ranges;

static void read_ranges(void) {
    char line[4096];
    unsigned long start, end;
    FILE *maps = fopen("/proc/self/maps", "r");
    n_ranges = 0;
    while (maps && n_ranges < sizeof ranges / sizeof *ranges && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx", &start, &end) != 2) continue;
        struct range *found = &ranges[n_ranges++];
        *found = (struct range){start, end, 0};
        for (size_t i = 0; i < sizeof housekeepers / sizeof *housekeepers; i++)
            if (strstr(line, housekeepers[i])) found->housekeeping = 1;
    }
    if (maps) fclose(maps);
}

static const struct range *range_of(uintptr_t address) {
    for (size_t i = 0; i < n_ranges; i++)
        if (address >= ranges[i].start && address < ranges[i].end) return &ranges[i];
    return NULL;
}

/* Whether code at this address of the emulator's memory is a housekeeper's; libraries come as they are loaded. */
static int is_housekeeping(uintptr_t address) {
    const struct range *found = range_of(address);
    if (!found) {
        read_ranges();
        found = range_of(address);
    }
    return found && found->housekeeping;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    uint64_t here[CLASSES] = {0};
    size_t size = qemu_plugin_tb_n_insns(block);
    int housekeeping = is_housekeeping((uintptr_t)qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(block, 0)));
    for (size_t i = 0; i < size; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        here[ALL]++;
        int kind = class_of(word);
        here[kind == SIMD && housekeeping ? ALU : kind]++;
        here[DOT] += kind == SIMD && !housekeeping && is_dot(word);
    }
    for (int kind = 0; kind < CLASSES; kind++)
        if (here[kind])
            qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &counts[kind], here[kind]);
}

static void called(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t first, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    static uint32_t last = UINT32_MAX;
    uint32_t mark = (uint32_t)first - FIRST_MARK;
    if ((number != AARCH64_CLOSE && number != AARCH64_CLOSE_RANGE) || mark >= MARKS || mark == last) return;
    last = mark; /* where close_range is unknown, the C library tries close for the same descriptor */
    fprintf(out, "{\"mark\": %u", mark);
    for (int kind = 0; kind < CLASSES; kind++)
        fprintf(out, ", \"%s\": %llu", names[kind], (unsigned long long)counts[kind]);
    fprintf(out, "}\n");
    fflush(out);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4)) out = fopen(argv[i] + 4, "w");
    if (!out) return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
