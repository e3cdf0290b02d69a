// Rows of V in int8, and how probable a word among them can be at most.
#pragma once

#include "rows.hpp"

namespace glassgate::runtime {

// Some h in 16 bits, and what that costs: h ~ unit * integers.
class Rounded {
  public:
    void round(Index width, Index count, const float* h);

    Index stride = 0;  // numbers from one h to the next; those behind its own are 0
    std::vector<float> units, lengths, others;  // |h|; what the error of a logit grows by for each length of a row
    const std::int16_t* integers(Index m) const { return first_ + m * stride; }

  private:
    std::vector<std::int16_t> memory_;
    std::int16_t* first_ = nullptr;
};

class Sketch {
  public:
    // V and c stay where they are as long as this does. Where V is int8, it is its own sketch.
    Sketch(const Matrix& V, const void* c);

    // With z = V h[chosen[i]] + c: least[i] <= log(sum_j exp(z_j)), and highs[i][j] >= z_j, highs [chosen, rows]; most[i] is the
    // largest of them. So log y of the softmax is nowhere above most[i] - least[i]: a cluster whose own share times that is too
    // small holds none of the best words.
    void bound(const Rounded& h, const std::vector<Index>& chosen, float* least, float* most, float* highs) const;

  private:
    Index rows_, width_;
    std::vector<std::int8_t> made_;
    const std::int8_t* integers_;
    std::vector<float> scales_, errors_, lengths_, c_;  // lengths: max(|V|, |scale * integers|); errors: |V - scale * integers|
};

}  // namespace glassgate::runtime
