// The recurrences, as plain functions on plain pointers: no Python, no torch.
//
// Every array is dense and row-major, S is float or double. T steps, N sequences, I inputs, H hidden units, G gates:
// 4 for the LSTM in the order input, forget, candidate, output; 3 for the GRU in the order reset, z, candidate, where z is
// the share of the OLD state. All buffers belong to the caller, need to live only as long as the call, and must not
// overlap one another, except that in a single step (T = 1, no lengths) h0, h_n and hidden may be one buffer, and c0 and c_n
// another. "null" says that the pointer may be null and what that means. Any size may be zero.
//
//     LSTM                                    GRU, reset before the product       GRU, reset after it
//     i = sigmoid(W_i x + U_i h + b_i)        r = sigmoid(W_r x + U_r h + b_r)    the same r and z
//     f = sigmoid(W_f x + U_f h + b_f)        z = sigmoid(W_z x + U_z h + b_z)    m = U_n h + b_hn
//     g = tanh   (W_g x + U_g h + b_g)        n = tanh(W_n x + U_n (r h) + b_n)   n = tanh(W_n x + b_in + r m)
//     o = sigmoid(W_o x + U_o h + b_o)        h' = (1 - z) n + z h                h' = (1 - z) n + z h
//     c' = f c + i g,  h' = o tanh(c')
//
// (W = w_ih acts on the input, U = w_hh on the hidden state, b = b_ih + b_hh.)
//
// Which steps count: step t of sequence n is active when t < lengths[n]. An inactive step leaves the state alone and its
// outputs are zero. An active step with resets[t][n] != 0 starts from a state of zeros. With `reverse` the steps are taken
// from the last to the first. The final state is the state after all steps.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glassgate::kernels {

enum class Cell : int { lstm = 0, gru_after = 1, gru_before = 2 };

__attribute__((always_inline)) inline int gate_count(Cell cell) { return cell == Cell::lstm ? 4 : 3; }
__attribute__((always_inline)) inline int state_count(Cell cell) { return cell == Cell::lstm ? 2 : 1; }

struct Sizes {
    std::int64_t T, N, I, H;
};

template <class S> struct Forward {
    Cell cell;
    Sizes sizes;
    const S* x;                   // [T, N, I]
    const S* w_ih;                // [G H, I]           not read when packed is given
    const S* w_hh;                // [G H, H]           not read when packed is given
    const S* b_ih;                // [G H], null: zeros; not read when packed is given
    const S* b_hh;                // [G H], null: zeros; not read when packed is given
    const S* packed;              // what pack() wrote, null: the weights are packed for this call
    const S* h0;                  // [N, H], null: zeros
    const S* c0;                  // [N, H], LSTM only, null: zeros
    const std::int64_t* lengths;  // [N], each from 0 to T, null: all T
    const std::uint8_t* resets;   // [T, N], null: none
    bool reverse;
    bool bf16;        // float only: weights, inputs and hidden state enter the products rounded to bfloat16
    S* hidden;        // out [T, N, H]
    S* state;         // out [T, N, H], null: not wanted. LSTM: cell states c'; GRU after: m; GRU before: unused
    S* gates;         // out [T, N, G, H] after their activations, null: not wanted
    S* h_n;           // out [N, H]
    S* c_n;           // out [N, H], LSTM only
    // Edits change gates and states as they are computed, unit by unit, v -> min(max(scale v + add, low), high), and all that
    // is computed from them follows. E rows of four vectors say what, and for each step which rows say it.
    const std::int32_t* edit_rows;  // [T, N, G + states]: the number of a row, or -1: no edit. The order is that of the
                                    // gates, then c' (LSTM), then h'; null: no edits at all
    const S* edits;                 // [E, 4, H] scale, add, low, high; null when edit_rows is null
    int threads;  // at most; 0: as many as are set
    // Of a single step (T = 1) with packed weights:
    const S* sums;  // [N, input_sums_size()] what input_sums() made of x, which is not read then; null: x is read
    bool back;      // reads the weights from the last to the first: a stream that takes turns finds in the caches what its
                    // step before read last. The results are the same bits.
};

template <class S> struct Backward {
    Cell cell;
    Sizes sizes;
    const S* x;  // as given to Forward, down to reverse
    const S* w_ih;
    const S* w_hh;
    const S* h0;
    const S* c0;
    const std::int64_t* lengths;
    const std::uint8_t* resets;
    bool reverse;
    bool bf16;
    const S* hidden;  // as Forward wrote them
    const S* state;
    const S* gates;
    const S* d_hidden;  // [T, N, H] gradient on each output, null: zeros
    const S* d_state;   // [T, N, H] gradient on `state`, null: zeros
    const S* d_gates;   // [T, N, G, H] gradient on the activated gates, null: zeros
    const S* d_h_n;     // [N, H], null: zeros
    const S* d_c_n;     // [N, H], LSTM only, null: zeros
    S* d_x;             // out [T, N, I], null: not wanted
    S* d_w_ih;          // out [G H, I], null: not wanted
    S* d_w_hh;          // out [G H, H], null: not wanted
    S* d_b_ih;          // out [G H], null: not wanted
    S* d_b_hh;          // out [G H], null: not wanted
    S* d_h0;            // out [N, H], null: not wanted
    S* d_c0;            // out [N, H], LSTM only, null: not wanted
};

// How many S the packed weights of a model take, and the packing itself: w_ih, w_hh and the biases in the order in which
// the kernels read them. What is packed under one instruction set is read under the same one only.
template <class S> std::size_t packed_size(Cell cell, std::int64_t I, std::int64_t H, bool bf16);
template <class S>
void pack(Cell cell, std::int64_t I, std::int64_t H, const S* w_ih, const S* w_hh, const S* b_ih, const S* b_hh,
          bool bf16, S* packed);

// What a step adds up of its inputs alone, W x + b in the kernels' order, for inputs that come again: of the single step
// that `call` describes by cell, sizes, x, packed weights and threads, to sums [N, input_sums_size()].
template <class S> std::size_t input_sums_size(Cell cell, std::int64_t H, bool bf16);
template <class S> void input_sums(const Forward<S>& call, S* sums);

// One step is a sequence with T = 1: there is no second body. Both throw std::bad_alloc when scratch memory is short,
// before anything is written.
template <class S> void forward(const Forward<S>& call);
template <class S> void backward(const Backward<S>& call);

// The activations alone, out[i] = f(in[i]): for tests of their accuracy.
template <class S> void sigmoid(const S* in, S* out, std::int64_t count);
template <class S> void tanh(const S* in, S* out, std::int64_t count);

// The instruction set in use: the best that the machine has, or the one that GLASSGATE_ISA names. Throws
// std::runtime_error with one line when GLASSGATE_ISA names an unknown one or one that the machine lacks.
const char* isa();

}  // namespace glassgate::kernels
