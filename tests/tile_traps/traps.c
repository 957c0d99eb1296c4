/* Tile (AMX) instructions for processors that have none: each one is an illegal instruction there, whose signal
 * this handler takes, does what the instruction defines, and goes on behind it. What a processor would refuse
 * (operands that do not fit each other, tiles that are not configured) ends the process with a message.
 *
 * It knows the forms that a compiler emits for operations on numbered tiles, and nothing else.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>
#include <xmmintrin.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, GROUPS = ROW_BYTES / 4, REGISTERS = 16 };
enum { NO_PREFIX, PREFIX_66, PREFIX_F3, PREFIX_F2 };

typedef struct {
    int configured;
    uint8_t rows[TILES];
    uint16_t row_bytes[TILES];
    uint8_t data[TILES][ROWS][ROW_BYTES];
} Registers;

typedef struct {
    int opcode, prefix, third, length;
    int in_memory, first, second; /* ModRM: whether the second operand is in memory, numbers of both */
    uint64_t address, stride;
} Instruction;

static __thread Registers registers;
static uint64_t executed;

static const int GENERAL[REGISTERS] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static void refuse(const char *reason) {
    static const char start[] = "tile instruction refused: ";
    if (write(2, start, sizeof start - 1) < 0 || write(2, reason, strlen(reason)) < 0 || write(2, "\n", 1) < 0)
        _exit(1);
    abort();
}

static void require(int condition, const char *reason) {
    if (!condition) refuse(reason);
}

static int64_t displacement(const uint8_t *code, int bytes) {
    int32_t wide;
    if (bytes == 1) return (int8_t)code[0];
    memcpy(&wide, code, 4);
    return wide;
}

/* Three bytes of VEX prefix for the map 0F38, opcode, ModRM, and the address if there is one. */
static Instruction decode(const uint8_t *code, const greg_t *general) {
    Instruction found = {0};
    require(code[0] == 0xC4 && (code[1] & 0x1F) == 2, "an illegal instruction that is none for tiles");
    require((code[2] & 0x84) == 0, "a vector length or operand size that tiles do not have");
    const int far_index = !(code[1] & 0x40) << 3, far_base = !(code[1] & 0x20) << 3, mode = code[4] >> 6;
    found.opcode = code[3];
    found.prefix = code[2] & 3;
    found.third = ~code[2] >> 3 & 15;
    found.in_memory = mode != 3;
    found.first = code[4] >> 3 & 7;
    found.second = code[4] & 7;
    found.length = 5;
    if (!found.in_memory) return found;
    int base = found.second, bytes = mode == 1 ? 1 : mode == 2 ? 4 : 0, absolute = mode == 0 && base == 5;
    if (base == 4) {
        const int scaled = code[found.length++], index = (scaled >> 3 & 7) | far_index;
        base = scaled & 7;
        absolute = mode == 0 && base == 5;
        require(!absolute, "an address without a base");
        found.stride = index == 4 ? 0 : (uint64_t)general[GENERAL[index]] << (scaled >> 6);
    } else {
        require(found.opcode == 0x49, "a tile in memory without a stride");
    }
    if (absolute) bytes = 4;
    const int64_t offset = bytes ? displacement(code + found.length, bytes) : 0;
    found.length += bytes;
    const uint64_t from = absolute ? (uint64_t)code + found.length : (uint64_t)general[GENERAL[base | far_base]];
    found.address = from + offset;
    return found;
}

static void configure(const uint8_t *memory) {
    require(memory[0] <= 1, "a configuration of an unknown palette");
    memset(&registers, 0, sizeof registers);
    registers.configured = memory[0];
    for (int i = 1; i < 16; i++) require(memory[i] == 0, "a configuration with reserved bytes set");
    for (int t = 0; t < 16; t++) {
        uint16_t row_bytes;
        memcpy(&row_bytes, memory + 16 + 2 * t, 2);
        const int rows = memory[48 + t];
        require(t < TILES || (!rows && !row_bytes), "a configuration of more than eight tiles");
        require(rows <= ROWS && row_bytes <= ROW_BYTES && !rows == !row_bytes, "a configuration of too large a tile");
        if (t >= TILES) continue;
        registers.rows[t] = rows;
        registers.row_bytes[t] = row_bytes;
    }
}

static void usable(int tile) {
    require(registers.configured, "a tile before any configuration");
    require(tile < TILES && registers.rows[tile] > 0, "a tile that is not configured");
}

static void load(int tile, const Instruction *it) {
    memset(registers.data[tile], 0, sizeof registers.data[tile]);
    for (int r = 0; r < registers.rows[tile]; r++)
        memcpy(registers.data[tile][r], (const void *)(it->address + r * it->stride), registers.row_bytes[tile]);
}

static void store(int tile, const Instruction *it) {
    for (int r = 0; r < registers.rows[tile]; r++)
        memcpy((void *)(it->address + r * it->stride), registers.data[tile][r], registers.row_bytes[tile]);
}

static void multiply_bytes(int32_t *sums, const int8_t *left, const int8_t *right) {
    for (int n = 0; n < GROUPS; n++)
        for (int h = 0; h < 4; h++) sums[n] += left[h] * right[4 * n + h];
}

static float widened(uint32_t word, int half) {
    const uint32_t bits = half ? word & 0xFFFF0000u : word << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Even and odd products of a row are summed apart, from zero. */
static void multiply_halves(float *sums, const uint8_t *left, int right, int groups) {
    float halves[2][GROUPS] = {0};
    for (int k = 0; k < groups; k++) {
        uint32_t word, words[GROUPS];
        memcpy(&word, left + 4 * k, 4);
        memcpy(words, registers.data[right][k], ROW_BYTES);
        for (int h = 0; h < 2; h++)
            for (int n = 0; n < GROUPS; n++) halves[h][n] += widened(word, h) * widened(words[n], h);
    }
    for (int n = 0; n < GROUPS; n++) sums[n] += halves[0][n] + halves[1][n];
}

static void multiply(const Instruction *it) {
    const int to = it->first, left = it->second, right = it->third, groups = registers.row_bytes[left] / 4;
    require(!it->in_memory && to != left && to != right && left != right, "a product of one tile with itself");
    usable(to), usable(left), usable(right);
    require(registers.rows[to] == registers.rows[left], "a product whose rows differ");
    require(registers.row_bytes[to] == registers.row_bytes[right], "a product whose columns differ");
    require(groups == registers.rows[right], "a product whose depths differ");
    const unsigned control = _mm_getcsr();
    _mm_setcsr(0x1F80 | 0x8040); /* nearest even, no exceptions, subnormal operands and results are zero */
    for (int m = 0; m < registers.rows[to]; m++) {
        uint8_t *row = registers.data[to][m], *operand = registers.data[left][m];
        if (it->opcode == 0x5C) {
            multiply_halves((float *)row, operand, right, groups);
            continue;
        }
        for (int k = 0; k < groups; k++)
            multiply_bytes((int32_t *)row, (int8_t *)operand + 4 * k, (int8_t *)registers.data[right][k]);
    }
    _mm_setcsr(control);
}

static void execute(const Instruction *it) {
    switch (it->opcode << 8 | it->prefix) {
    case 0x4900 | NO_PREFIX:
        if (it->in_memory) configure((const uint8_t *)it->address);
        else memset(&registers, 0, sizeof registers);
        return;
    case 0x4900 | PREFIX_F2:
        usable(it->first);
        memset(registers.data[it->first], 0, sizeof registers.data[it->first]);
        return;
    case 0x4B00 | PREFIX_F2:
        usable(it->first);
        load(it->first, it);
        return;
    case 0x4B00 | PREFIX_F3:
        usable(it->first);
        store(it->first, it);
        return;
    case 0x5E00 | PREFIX_F2: /* signed bytes */
    case 0x5C00 | PREFIX_F3: /* bfloat16 */
        multiply(it);
        return;
    default:
        refuse("an instruction that is none for tiles");
    }
}

static void handle(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    greg_t *general = ((ucontext_t *)context)->uc_mcontext.gregs;
    const Instruction it = decode((const uint8_t *)general[REG_RIP], general);
    execute(&it);
    general[REG_RIP] += it.length;
    __atomic_fetch_add(&executed, 1, __ATOMIC_RELAXED);
}

int install_tile_traps(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGILL, &action, NULL);
}

uint64_t executed_tile_instructions(void) { return executed; }
