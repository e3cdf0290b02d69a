// Rows of V in int8, and how probable a word among them can be at most.
#pragma once

#include "rows.hpp"

namespace glassgate::runtime {

// Other axes for V and h, in which the first `kept` numbers of a row say nearly all of V h = (V T) (T' h). T' is the inverse of T
// to rounding.
struct Turn {
    Index width, kept;
    std::vector<float> of_V, of_h;  // [width, width]: the rows of T turned over, the rows of T'
    float V_error, h_error;         // for each length of a row, of h: how far off its turned numbers may be; with
                                    // h_error also what T T' lacks of 1

    // T [width, width] and T' [width, width].
    Turn(Index width, Index kept, const float* T, const float* inverse);
};

// Some h in 16 bits, and what that costs: h ~ unit * integers.
class Rounded {
  public:
    void round(Index width, Index count, const float* h) { round(width, width, count, h); }
    // The first numbers of the turned h.
    void round(const Turn& turn, Index count, const float* h);

    Index stride = 0;  // numbers from one h to the next; those behind its own are 0
    // |h|; what the error of a logit grows by for each length of a row; the length of what was left out of h.
    std::vector<float> units, lengths, others, rests;
    const std::int16_t* integers(Index m) const { return first_ + m * stride; }

  private:
    void round(Index width, Index distance, Index count, const float* h);

    std::vector<std::int16_t> memory_;
    std::int16_t* first_ = nullptr;
    std::vector<float> turned_;
};

class Sketch {
  public:
    // V and c stay where they are as long as this does. Where V is int8, it is its own sketch.
    Sketch(const Matrix& V, const void* c);
    // Of the first numbers of the turned rows; what is left out counts as error.
    Sketch(const Matrix& V, const void* c, const Turn& turn);

    // With z = V h[chosen[i]] + c: least[i] <= log(sum_j exp(z_j)), and highs[i][j] >= z_j, highs [chosen, rows]; most[i] is the
    // largest of them. So log y of the softmax is nowhere above most[i] - least[i]: a cluster whose own share times that is too
    // small holds none of the best words.
    void bound(const Rounded& h, const std::vector<Index>& chosen, float* least, float* most, float* highs) const;

  private:
    Sketch(const Matrix& V, Index width) : rows_(V.rows), width_(width), errors_(V.rows), lengths_(V.rows) {}
    void copy_biases(const Matrix& V, const void* c);
    // Rounds a row, or where it is there already takes it as it is, and notes how far off it is.
    void note(Index row, const double* exact, double length, bool is_there);

    Index rows_, width_;
    std::vector<std::int8_t> made_;
    const std::int8_t* integers_;
    // errors: |V - scale * integers|; rests: of the numbers that were left out; lengths: max(|V|, |scale * integers|)
    std::vector<float> scales_, errors_, rests_, lengths_, c_;
};

}  // namespace glassgate::runtime
