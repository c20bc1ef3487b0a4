/* A plugin for QEMU's user-mode emulation: counts the instructions that the program's main thread executes and the
 * bytes that it loads and stores. Where the program calls close(MARK), a line "instructions loaded stored" is appended
 * to the file given as out=PATH. Written against QEMU's documented TCG plugin interface, of which it declares what it
 * uses. Counting starts at the first mark: all that runs before it is translated without instrumentation.
 * Preloaded as well, it takes the place of the clock that the program reads through the emulator. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MARK (-24278)
#define CLOSE 57 /* on aarch64 */
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
typedef uint32_t meminfo;
struct tb;
struct insn;
enum { NO_REGS = 0, READ_WRITE = 3 };
typedef void udata_cb(unsigned vcpu, void *data);
typedef void memory_cb(unsigned vcpu, meminfo info, uint64_t address, void *data);
typedef void translate_cb(plugin_id id, struct tb *tb);
typedef void syscall_cb(plugin_id id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                        uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);
size_t qemu_plugin_tb_n_insns(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t place);
unsigned qemu_plugin_mem_size_shift(meminfo info);
_Bool qemu_plugin_mem_is_store(meminfo info);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, translate_cb *cb);
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *insn, udata_cb *cb, int flags, void *data);
void qemu_plugin_register_vcpu_tb_exec_cb(struct tb *tb, udata_cb *cb, int flags, void *data);
void qemu_plugin_register_vcpu_mem_cb(struct insn *insn, memory_cb *cb, int flags, int rw, void *data);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id id, syscall_cb *cb);
void qemu_plugin_reset(plugin_id id, void (*done)(plugin_id id));

EXPORT int qemu_plugin_version = 1;

static int out = -1, counting;
static uint64_t executed, loaded, stored;

static void count(unsigned vcpu, void *instructions) {
    if (!vcpu) executed += (uintptr_t)instructions;
}

static void moved(unsigned vcpu, meminfo info, uint64_t address, void *data) {
    if (!vcpu) *(qemu_plugin_mem_is_store(info) ? &stored : &loaded) += 1u << qemu_plugin_mem_size_shift(info);
}

static void translate(plugin_id id, struct tb *tb) {
    size_t n = qemu_plugin_tb_n_insns(tb);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, count, NO_REGS, (void *)n);
    for (size_t i = 0; i < n; i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), moved, NO_REGS, READ_WRITE, NULL);
}

/* Each look of a thread finds it a microsecond later. ONNX Runtime keeps books on how long inferences take; by a real
 * clock their entries, and from then on the heap, would be others in every process. */
EXPORT int clock_gettime(clockid_t clock, struct timespec *now) {
    static __thread uint64_t looks;
    uint64_t microseconds = ++looks;
    now->tv_sec = 1 + microseconds / 1000000;
    now->tv_nsec = microseconds % 1000000 * 1000;
    return 0;
}

static void instrument(plugin_id id);

static void syscall(plugin_id id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                    uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    if (number != CLOSE || (int32_t)a1 != MARK) return;
    if (!counting) {
        counting = 1;
        qemu_plugin_reset(id, instrument); /* drops all translated code, and the callbacks */
    }
    dprintf(out, "%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", executed, loaded, stored);
}

static void instrument(plugin_id id) {
    qemu_plugin_register_vcpu_syscall_cb(id, syscall);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4)) out = open(argv[i] + 4, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (out < 0) return 1;
    qemu_plugin_register_vcpu_syscall_cb(id, syscall);
    return 0;
}
