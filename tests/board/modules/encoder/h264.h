/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * H.264 as simple as the standard allows (ITU-T H.264, clauses 7.3, 8.3 and 9.2): a macroblock is carried as its
 * samples (I_PCM), repeats the picture before (P_Skip), or, in a key frame, continues the macroblock above or to the
 * left of it (Intra_16x16 without a residual). So every decoder shows exactly what went in, no part of it takes
 * arithmetic that a kernel does not have, and key frames of flat pictures have the size that encoders give them.
 *
 * Nothing here belongs to the kernel but the types, so that a program can include it too.
 */
#ifndef BOARD_ENCODER_H264_H
#define BOARD_ENCODER_H264_H

#define H264_BLOCK 16
/* Samples of a macroblock in 4:2:0. */
#define H264_PCM_BYTES 384
/* Start codes, parameter sets and slice header, generously. */
#define H264_HEADER_BYTES 256
/*
 * Before the samples of a macroblock: the run of skipped ones, its type, and what aligns them; and at worst, where all
 * of them are 0, one byte that keeps two of them from being taken for a start code (clause 7.4.1).
 */
#define H264_BLOCK_OVERHEAD (8 + H264_PCM_BYTES / 2)

enum h264_mark {
	H264_SKIPPED,
	H264_PCM,
	/* Intra_16x16 prediction, vertical and horizontal (table 8-4). */
	H264_AS_ABOVE,
	H264_AS_LEFT,
};

/* A picture in 4:2:0, as NV12 (interleaved chroma, step 2) or planar (step 1). */
struct h264_picture {
	const u8 *luma;
	const u8 *chroma[2];
	u32 stride;
	u32 chroma_stride;
	u32 chroma_step;
};

struct h264_stream {
	/* In luma samples; the coded size is the next multiple of 16, and the difference is cropped. */
	u32 width;
	u32 height;
	u8 profile_idc;
	u8 constraints;
	u8 level_idc;
	/* What decoders have now: the coded picture, planar, without gaps. */
	u8 *shown;
	u32 frame_num;
	u32 idr_pic_id;
	/* Where the search for changed macroblocks begins, so that a small budget reaches all of them in turn. */
	u32 turn;
	/* One entry for each macroblock: an enum h264_mark, how the next picture has it. */
	u8 *marks;
};

struct h264_writer {
	u8 *bytes;
	u32 length;
	u32 capacity;
	u32 bits;
	u32 held;
	u32 zeros;
	bool is_full;
};

static inline u32 h264_columns(const struct h264_stream *s)
{
	return (s->width + H264_BLOCK - 1) / H264_BLOCK;
}

static inline u32 h264_rows(const struct h264_stream *s)
{
	return (s->height + H264_BLOCK - 1) / H264_BLOCK;
}

static inline u32 h264_blocks(const struct h264_stream *s)
{
	return h264_columns(s) * h264_rows(s);
}

/* The size of a picture that carries every macroblock. */
static inline u32 h264_most_bytes(const struct h264_stream *s)
{
	return H264_HEADER_BYTES + h264_blocks(s) * (H264_PCM_BYTES + H264_BLOCK_OVERHEAD);
}

static inline void h264_raw_byte(struct h264_writer *w, u8 byte)
{
	if (w->length < w->capacity)
		w->bytes[w->length++] = byte;
	else
		w->is_full = true;
}

/* A byte within a NAL unit, with emulation prevention (7.4.1). */
static inline void h264_byte(struct h264_writer *w, u8 byte)
{
	if (w->zeros == 2 && byte <= 3) {
		h264_raw_byte(w, 3);
		w->zeros = 0;
	}
	h264_raw_byte(w, byte);
	w->zeros = byte ? 0 : w->zeros + 1;
}

static inline void h264_put(struct h264_writer *w, u32 value, u32 count)
{
	while (count--) {
		w->held = w->held << 1 | (value >> count & 1);
		if (++w->bits == 8) {
			h264_byte(w, w->held);
			w->bits = 0;
			w->held = 0;
		}
	}
}

/* ue(v), clause 9.1. */
static inline void h264_ue(struct h264_writer *w, u32 value)
{
	u32 length = 0, v = value + 1;

	while (v >> (length + 1))
		length++;
	h264_put(w, 0, length);
	h264_put(w, v, length + 1);
}

static inline void h264_begin(struct h264_writer *w, u8 header)
{
	h264_raw_byte(w, 0);
	h264_raw_byte(w, 0);
	h264_raw_byte(w, 0);
	h264_raw_byte(w, 1);
	h264_raw_byte(w, header);
	w->zeros = 0;
	w->bits = 0;
	w->held = 0;
}

/* rbsp_trailing_bits. */
static inline void h264_end(struct h264_writer *w)
{
	h264_put(w, 1, 1);
	while (w->bits)
		h264_put(w, 0, 1);
}

static inline void h264_parameter_sets(struct h264_writer *w, const struct h264_stream *s)
{
	u32 right = h264_columns(s) * H264_BLOCK - s->width;
	u32 bottom = h264_rows(s) * H264_BLOCK - s->height;

	h264_begin(w, 0x67);
	h264_put(w, s->profile_idc, 8);
	h264_put(w, s->constraints, 8);
	h264_put(w, s->level_idc, 8);
	h264_ue(w, 0); /* seq_parameter_set_id */
	if (s->profile_idc >= 100) {
		h264_ue(w, 1); /* chroma_format_idc: 4:2:0 */
		h264_ue(w, 0);
		h264_ue(w, 0);
		h264_put(w, 0, 2);
	}
	h264_ue(w, 4); /* log2_max_frame_num_minus4: 8 bits */
	h264_ue(w, 2); /* pic_order_cnt_type: output order is coding order */
	h264_ue(w, 1); /* max_num_ref_frames */
	h264_put(w, 0, 1);
	h264_ue(w, h264_columns(s) - 1);
	h264_ue(w, h264_rows(s) - 1);
	h264_put(w, 1, 1); /* frame_mbs_only_flag */
	h264_put(w, 1, 1); /* direct_8x8_inference_flag */
	h264_put(w, right || bottom, 1);
	if (right || bottom) {
		h264_ue(w, 0);
		h264_ue(w, right / 2);
		h264_ue(w, 0);
		h264_ue(w, bottom / 2);
	}
	h264_put(w, 0, 1); /* vui_parameters_present_flag */
	h264_end(w);

	h264_begin(w, 0x68);
	h264_ue(w, 0);
	h264_ue(w, 0);
	h264_put(w, 0, 1); /* entropy_coding_mode_flag: CAVLC */
	h264_put(w, 0, 1);
	h264_ue(w, 0); /* num_slice_groups_minus1 */
	h264_ue(w, 0);
	h264_ue(w, 0);
	h264_put(w, 0, 3); /* no weighted prediction */
	h264_ue(w, 0); /* pic_init_qp_minus26 */
	h264_ue(w, 0);
	h264_ue(w, 0);
	h264_put(w, 1, 1); /* deblocking_filter_control_present_flag */
	h264_put(w, 0, 2);
	h264_end(w);
}

/* One block of samples out of a plane; what is beyond the picture repeats its last column and line. */
static inline void h264_take(u8 *to, const u8 *plane, u32 stride, u32 step, u32 x, u32 y, u32 size, u32 width, u32 height)
{
	u32 row, column;

	for (row = 0; row < size; row++) {
		const u8 *line = plane + (size_t)min(y + row, height - 1) * stride;

		for (column = 0; column < size; column++)
			to[row * size + column] = line[min(x + column, width - 1) * step];
	}
}

static inline void h264_block(const struct h264_stream *s, const struct h264_picture *p, u32 index, u8 *to)
{
	u32 x = index % h264_columns(s), y = index / h264_columns(s), i;

	h264_take(to, p->luma, p->stride, 1, x * 16, y * 16, 16, s->width, s->height);
	for (i = 0; i < 2; i++)
		h264_take(to + 256 + 64 * i, p->chroma[i], p->chroma_stride, p->chroma_step, x * 8, y * 8, 8,
			  (s->width + 1) / 2, (s->height + 1) / 2);
}

static inline void h264_pcm(struct h264_writer *w, const u8 *samples)
{
	u32 i;

	while (w->bits) /* pcm_alignment_zero_bit */
		h264_put(w, 0, 1);
	for (i = 0; i < H264_PCM_BYTES; i++)
		h264_byte(w, samples[i]);
}

/* Whether each line of a block is the last one of the block above it, or each sample the last one of its line to the left. */
static inline bool h264_is_as(enum h264_mark mark, const u8 *block, const u8 *other, u32 size)
{
	u32 row, column;

	for (row = 0; row < size; row++) {
		for (column = 0; column < size; column++) {
			u32 from = mark == H264_AS_ABOVE ? (size - 1) * size + column : row * size + size - 1;

			if (block[row * size + column] != other[from])
				return false;
		}
	}
	return true;
}

/* Which of the macroblocks before it in a key frame one continues. */
static inline enum h264_mark h264_continues(const struct h264_stream *s, u32 index)
{
	const u8 *block = s->shown + (size_t)index * H264_PCM_BYTES;
	enum h264_mark mark;

	for (mark = H264_AS_ABOVE; mark <= H264_AS_LEFT; mark++) {
		u32 back = mark == H264_AS_ABOVE ? h264_columns(s) : 1;
		bool has_one = mark == H264_AS_ABOVE ? index >= back : index % h264_columns(s) > 0;
		const u8 *other = block - (size_t)back * H264_PCM_BYTES;

		if (has_one && h264_is_as(mark, block, other, 16) && h264_is_as(mark, block + 256, other + 256, 8) &&
		    h264_is_as(mark, block + 320, other + 320, 8))
			return mark;
	}
	return H264_PCM;
}

/* A macroblock of a key frame by prediction alone (7.3.5). */
static inline void h264_predicted(struct h264_writer *w, const struct h264_stream *s, u32 index)
{
	u32 columns = h264_columns(s);
	bool is_by_pcm = (index % columns && s->marks[index - 1] == H264_PCM) ||
			 (index >= columns && s->marks[index - columns] == H264_PCM);

	/* mb_type: I_16x16_0_0_0 and I_16x16_1_0_0 (table 7-11). */
	h264_ue(w, s->marks[index] == H264_AS_ABOVE ? 1 : 2);
	/* intra_chroma_pred_mode (table 8-5). */
	h264_ue(w, s->marks[index] == H264_AS_ABOVE ? 2 : 1);
	h264_ue(w, 0); /* mb_qp_delta */
	/*
	 * coeff_token for no coefficient, by how many the neighbours have on average: 16 in I_PCM and else none, so 0, or
	 * 8 and more, which share a code (9.2.1, table 9-5).
	 */
	if (is_by_pcm)
		h264_put(w, 3, 6);
	else
		h264_put(w, 1, 1);
}

/*
 * Writes a picture, and gives its length; 0 where it does not fit. `most` is how many macroblocks it may carry, but
 * for a key frame, which has all.
 */
static inline u32 h264_write(struct h264_stream *s, const struct h264_picture *p, bool is_key, bool has_headers, u32 most,
			     u8 *bytes, u32 capacity)
{
	struct h264_writer w = { .bytes = bytes, .capacity = capacity };
	u32 blocks = h264_blocks(s), skipped = 0, marked = 0, i;
	u8 samples[H264_PCM_BYTES];

	for (i = 0; i < blocks; i++) {
		u32 index = (s->turn + i) % blocks;

		s->marks[index] = is_key ? H264_PCM : H264_SKIPPED;
		if (is_key || marked == most)
			continue;
		h264_block(s, p, index, samples);
		if (memcmp(samples, s->shown + (size_t)index * H264_PCM_BYTES, H264_PCM_BYTES)) {
			s->marks[index] = H264_PCM;
			if (++marked == most)
				s->turn = (index + 1) % blocks;
		}
	}
	if (is_key) {
		s->frame_num = 0;
		s->idr_pic_id ^= 1;
	} else {
		s->frame_num = (s->frame_num + 1) & 0xff;
	}
	if (has_headers)
		h264_parameter_sets(&w, s);
	h264_begin(&w, is_key ? 0x65 : 0x61);
	h264_ue(&w, 0); /* first_mb_in_slice */
	h264_ue(&w, is_key ? 7 : 5); /* slice_type: all I, all P */
	h264_ue(&w, 0);
	h264_put(&w, s->frame_num, 8);
	if (is_key) {
		h264_ue(&w, s->idr_pic_id);
		h264_put(&w, 0, 2); /* no_output_of_prior_pics_flag, long_term_reference_flag */
	} else {
		h264_put(&w, 0, 1); /* num_ref_idx_active_override_flag */
		h264_put(&w, 0, 1); /* ref_pic_list_modification_flag_l0 */
		h264_put(&w, 0, 1); /* adaptive_ref_pic_marking_mode_flag */
	}
	h264_ue(&w, 0); /* slice_qp_delta, which is 0 in se(v) too */
	h264_ue(&w, 1); /* disable_deblocking_filter_idc */
	for (i = 0; i < blocks; i++) {
		u8 *shown = s->shown + (size_t)i * H264_PCM_BYTES;

		if (s->marks[i] == H264_SKIPPED) {
			skipped++;
			continue;
		}
		if (!is_key)
			h264_ue(&w, skipped); /* mb_skip_run */
		skipped = 0;
		h264_block(s, p, i, shown);
		if (is_key)
			s->marks[i] = h264_continues(s, i);
		if (s->marks[i] == H264_PCM) {
			h264_ue(&w, is_key ? 25 : 30); /* mb_type I_PCM, in I and in P slices */
			h264_pcm(&w, shown);
		} else {
			h264_predicted(&w, s, i);
		}
	}
	if (skipped)
		h264_ue(&w, skipped);
	h264_end(&w);
	return w.is_full ? 0 : w.length;
}

#endif
