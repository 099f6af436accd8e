// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * An H.264 encoder without hardware: a V4L2 mem2mem device that behaves as bcm2835-codec does (formats, controls, forced
 * key frames, end of stream), and misbehaves as its parameters say.
 *
 * Kernel documentation: userspace-api/media/v4l/dev-encoder.rst.
 */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <media/v4l2-ctrls.h>
#include <media/v4l2-device.h>
#include <media/v4l2-event.h>
#include <media/v4l2-ioctl.h>
#include <media/v4l2-mem2mem.h>
#include <media/videobuf2-vmalloc.h>

#include "h264.h"

#define NAME "board-encoder"
#define LEAST_SIZE 32
#define MOST_SIZE 1920
/* Macroblocks that a picture may carry however low the bitrate: samples are not compressed. */
#define LEAST_BLOCKS 40

/* What goes wrong. All can be changed while the encoder runs, below /sys/module/board_encoder/parameters. */
static bool ignores_key_frames;
module_param(ignores_key_frames, bool, 0644);
MODULE_PARM_DESC(ignores_key_frames, "forced key frames are accepted and not made");

static bool hangs_at_start;
module_param(hangs_at_start, bool, 0644);
MODULE_PARM_DESC(hangs_at_start, "STREAMON does not return until this is false again");

static unsigned int hangs_after;
module_param(hangs_after, uint, 0644);
MODULE_PARM_DESC(hangs_after, "after so many pictures no more come out, until this is 0 again");

static unsigned int fails_after;
module_param(fails_after, uint, 0644);
MODULE_PARM_DESC(fails_after, "after so many pictures the device fails");

static bool refuses_start;
module_param(refuses_start, bool, 0644);
MODULE_PARM_DESC(refuses_start, "STREAMON fails with EIO");

static unsigned int refuses_width;
module_param(refuses_width, uint, 0644);
MODULE_PARM_DESC(refuses_width, "pictures of this width cannot be set");

static unsigned int swallows;
module_param(swallows, uint, 0644);
MODULE_PARM_DESC(swallows, "of so many pictures one does not come out");

static unsigned int profile;
module_param(profile, uint, 0644);
MODULE_PARM_DESC(profile, "profile_idc, whatever is asked for");

static unsigned int level;
module_param(level, uint, 0644);
MODULE_PARM_DESC(level, "level_idc, whatever is asked for");

static bool shows_green;
module_param(shows_green, bool, 0644);
MODULE_PARM_DESC(shows_green, "pictures are of one colour, whatever goes in");

/* Counts for tests: pictures and key frames that came out, by all users since the module was loaded. */
static unsigned int pictures;
module_param(pictures, uint, 0444);
static unsigned int key_frames;
module_param(key_frames, uint, 0444);
/* The most pictures from a wish for a key frame to the key frame itself, that included. */
static unsigned int most_until_key_frame;
module_param(most_until_key_frame, uint, 0444);

struct encoder {
	struct v4l2_device v4l2_dev;
	struct video_device vfd;
	struct v4l2_m2m_dev *m2m_dev;
	struct mutex lock;
	struct platform_device *pdev;
};

/* One side: raw pictures (OUTPUT, as V4L2 calls what goes in) or H.264 (CAPTURE). */
struct side {
	u32 fourcc;
	u32 width;
	u32 height;
	u32 bytesperline;
	u32 sizeimage;
	u32 sequence;
};

struct context {
	struct v4l2_fh fh;
	struct encoder *encoder;
	struct v4l2_ctrl_handler controls;
	struct side raw;
	struct side coded;
	enum v4l2_colorspace colorspace;
	enum v4l2_xfer_func xfer_func;
	enum v4l2_ycbcr_encoding ycbcr_enc;
	enum v4l2_quantization quantization;
	struct v4l2_fract interval;
	struct v4l2_rect crop;
	struct h264_stream stream;
	struct delayed_work work;
	bool is_aborted;
	bool is_key_wanted;
	u32 made_at_wish;
	u32 bitrate;
	u32 period;
	u32 since_key;
	u32 made;
	bool repeats_headers;
};

static struct context *context_of(struct file *file)
{
	return container_of(file->private_data, struct context, fh);
}

static struct side *side_of(struct context *ctx, u32 type)
{
	return V4L2_TYPE_IS_OUTPUT(type) ? &ctx->raw : &ctx->coded;
}

/* Formats */

static const u32 raw_formats[] = { V4L2_PIX_FMT_YUV420, V4L2_PIX_FMT_NV12 };

static void lay_out(struct side *raw)
{
	raw->width = clamp(ALIGN(raw->width, 2), LEAST_SIZE, MOST_SIZE);
	raw->height = clamp(ALIGN(raw->height, 2), LEAST_SIZE, MOST_SIZE);
	/* As bcm2835-codec lays lines out. */
	raw->bytesperline = ALIGN(raw->width, 32);
	raw->sizeimage = raw->bytesperline * ALIGN(raw->height, 16) * 3 / 2;
}

static void lay_out_coded(struct context *ctx)
{
	struct h264_stream size = { .width = ctx->raw.width, .height = ctx->raw.height };

	ctx->coded.width = ctx->raw.width;
	ctx->coded.height = ctx->raw.height;
	ctx->coded.bytesperline = 0;
	/* Users may have asked for more, before they set what goes in. */
	ctx->coded.sizeimage = max(ctx->coded.sizeimage, h264_most_bytes(&size));
}

static int querycap(struct file *file, void *priv, struct v4l2_capability *cap)
{
	strscpy(cap->driver, NAME, sizeof(cap->driver));
	strscpy(cap->card, NAME, sizeof(cap->card));
	return 0;
}

static int enum_fmt(struct file *file, void *priv, struct v4l2_fmtdesc *f)
{
	if (V4L2_TYPE_IS_OUTPUT(f->type)) {
		if (f->index >= ARRAY_SIZE(raw_formats))
			return -EINVAL;
		f->pixelformat = raw_formats[f->index];
		return 0;
	}
	if (f->index)
		return -EINVAL;
	f->pixelformat = V4L2_PIX_FMT_H264;
	return 0;
}

static int enum_framesizes(struct file *file, void *priv, struct v4l2_frmsizeenum *f)
{
	if (f->index)
		return -EINVAL;
	f->type = V4L2_FRMSIZE_TYPE_STEPWISE;
	f->stepwise = (struct v4l2_frmsize_stepwise){ LEAST_SIZE, MOST_SIZE, 2, LEAST_SIZE, MOST_SIZE, 2 };
	return 0;
}

static void tell_format(struct context *ctx, const struct side *side, struct v4l2_format *f)
{
	struct v4l2_pix_format_mplane *pix = &f->fmt.pix_mp;

	pix->width = side->width;
	pix->height = side->height;
	pix->pixelformat = side->fourcc;
	pix->field = V4L2_FIELD_NONE;
	pix->num_planes = 1;
	pix->plane_fmt[0].bytesperline = side->bytesperline;
	pix->plane_fmt[0].sizeimage = side->sizeimage;
	pix->colorspace = ctx->colorspace;
	pix->xfer_func = ctx->xfer_func;
	pix->ycbcr_enc = ctx->ycbcr_enc;
	pix->quantization = ctx->quantization;
}

static int g_fmt(struct file *file, void *priv, struct v4l2_format *f)
{
	struct context *ctx = context_of(file);

	tell_format(ctx, side_of(ctx, f->type), f);
	return 0;
}

/* What a format would become. */
static int wanted(struct context *ctx, struct v4l2_format *f, struct side *side)
{
	const struct v4l2_pix_format_mplane *pix = &f->fmt.pix_mp;

	if (V4L2_TYPE_IS_CAPTURE(f->type)) {
		*side = ctx->coded;
		/* Encoders write into what they are given, so more may be asked for. */
		side->sizeimage = max(side->sizeimage, pix->plane_fmt[0].sizeimage);
		return 0;
	}
	*side = (struct side){ .fourcc = pix->pixelformat, .width = pix->width, .height = pix->height };
	if (side->fourcc != V4L2_PIX_FMT_NV12)
		side->fourcc = V4L2_PIX_FMT_YUV420;
	lay_out(side);
	return refuses_width && side->width == refuses_width ? -EINVAL : 0;
}

static int try_fmt(struct file *file, void *priv, struct v4l2_format *f)
{
	struct context *ctx = context_of(file);
	struct side side;
	int failed = wanted(ctx, f, &side);

	if (!failed)
		tell_format(ctx, &side, f);
	return failed;
}

static int s_fmt(struct file *file, void *priv, struct v4l2_format *f)
{
	struct context *ctx = context_of(file);
	const struct v4l2_pix_format_mplane *pix = &f->fmt.pix_mp;
	struct side side;
	int failed;

	if (vb2_is_busy(v4l2_m2m_get_vq(ctx->fh.m2m_ctx, f->type)))
		return -EBUSY;
	failed = wanted(ctx, f, &side);
	if (failed)
		return failed;
	*side_of(ctx, f->type) = side;
	if (V4L2_TYPE_IS_OUTPUT(f->type)) {
		ctx->colorspace = pix->colorspace;
		ctx->xfer_func = pix->xfer_func;
		ctx->ycbcr_enc = pix->ycbcr_enc;
		ctx->quantization = pix->quantization;
		ctx->crop = (struct v4l2_rect){ 0, 0, side.width, side.height };
		lay_out_coded(ctx);
	}
	tell_format(ctx, &side, f);
	return 0;
}

/* What of the raw picture is encoded: GStreamer asks for the size without the alignment. */
static int g_selection(struct file *file, void *priv, struct v4l2_selection *s)
{
	struct context *ctx = context_of(file);

	if (s->type != V4L2_BUF_TYPE_VIDEO_OUTPUT && s->type != V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE)
		return -EINVAL;
	if (s->target == V4L2_SEL_TGT_CROP)
		s->r = ctx->crop;
	else if (s->target == V4L2_SEL_TGT_CROP_DEFAULT || s->target == V4L2_SEL_TGT_CROP_BOUNDS)
		s->r = (struct v4l2_rect){ 0, 0, ctx->raw.width, ctx->raw.height };
	else
		return -EINVAL;
	return 0;
}

static int s_selection(struct file *file, void *priv, struct v4l2_selection *s)
{
	struct context *ctx = context_of(file);

	if (s->type != V4L2_BUF_TYPE_VIDEO_OUTPUT && s->type != V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE)
		return -EINVAL;
	if (s->target != V4L2_SEL_TGT_CROP)
		return -EINVAL;
	s->r.left = 0;
	s->r.top = 0;
	s->r.width = clamp(s->r.width & ~1U, (u32)LEAST_SIZE, ctx->raw.width);
	s->r.height = clamp(s->r.height & ~1U, (u32)LEAST_SIZE, ctx->raw.height);
	ctx->crop = s->r;
	return 0;
}

static int g_parm(struct file *file, void *priv, struct v4l2_streamparm *p)
{
	p->parm.output.capability = V4L2_CAP_TIMEPERFRAME;
	p->parm.output.timeperframe = context_of(file)->interval;
	return 0;
}

static int s_parm(struct file *file, void *priv, struct v4l2_streamparm *p)
{
	struct v4l2_fract *asked = &p->parm.output.timeperframe;

	if (!asked->numerator || !asked->denominator)
		*asked = (struct v4l2_fract){ 1, 30 };
	context_of(file)->interval = *asked;
	return g_parm(file, priv, p);
}

static int subscribe_event(struct v4l2_fh *fh, const struct v4l2_event_subscription *sub)
{
	return sub->type == V4L2_EVENT_EOS ? v4l2_event_subscribe(fh, sub, 0, NULL) : v4l2_ctrl_subscribe_event(fh, sub);
}

static const struct v4l2_ioctl_ops ioctls = {
	.vidioc_querycap = querycap,
	.vidioc_enum_fmt_vid_cap = enum_fmt,
	.vidioc_enum_fmt_vid_out = enum_fmt,
	.vidioc_enum_framesizes = enum_framesizes,
	.vidioc_g_fmt_vid_cap_mplane = g_fmt,
	.vidioc_g_fmt_vid_out_mplane = g_fmt,
	.vidioc_try_fmt_vid_cap_mplane = try_fmt,
	.vidioc_try_fmt_vid_out_mplane = try_fmt,
	.vidioc_s_fmt_vid_cap_mplane = s_fmt,
	.vidioc_s_fmt_vid_out_mplane = s_fmt,
	.vidioc_g_selection = g_selection,
	.vidioc_s_selection = s_selection,
	.vidioc_g_parm = g_parm,
	.vidioc_s_parm = s_parm,
	.vidioc_reqbufs = v4l2_m2m_ioctl_reqbufs,
	.vidioc_querybuf = v4l2_m2m_ioctl_querybuf,
	.vidioc_qbuf = v4l2_m2m_ioctl_qbuf,
	.vidioc_dqbuf = v4l2_m2m_ioctl_dqbuf,
	.vidioc_prepare_buf = v4l2_m2m_ioctl_prepare_buf,
	.vidioc_create_bufs = v4l2_m2m_ioctl_create_bufs,
	.vidioc_expbuf = v4l2_m2m_ioctl_expbuf,
	.vidioc_streamon = v4l2_m2m_ioctl_streamon,
	.vidioc_streamoff = v4l2_m2m_ioctl_streamoff,
	.vidioc_try_encoder_cmd = v4l2_m2m_ioctl_try_encoder_cmd,
	.vidioc_encoder_cmd = v4l2_m2m_ioctl_encoder_cmd,
	.vidioc_subscribe_event = subscribe_event,
	.vidioc_unsubscribe_event = v4l2_event_unsubscribe,
};

/* Controls */

static int set_control(struct v4l2_ctrl *ctrl)
{
	struct context *ctx = container_of(ctrl->handler, struct context, controls);

	switch (ctrl->id) {
	case V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME:
		if (!ctx->is_key_wanted)
			ctx->made_at_wish = ctx->made;
		ctx->is_key_wanted |= !ignores_key_frames;
		break;
	case V4L2_CID_MPEG_VIDEO_BITRATE:
		ctx->bitrate = ctrl->val;
		break;
	case V4L2_CID_MPEG_VIDEO_GOP_SIZE:
	case V4L2_CID_MPEG_VIDEO_H264_I_PERIOD:
		ctx->period = ctrl->val;
		break;
	case V4L2_CID_MPEG_VIDEO_REPEAT_SEQ_HEADER:
		ctx->repeats_headers = ctrl->val;
		break;
	}
	return 0;
}

static const struct v4l2_ctrl_ops control_ops = { .s_ctrl = set_control };

static int add_controls(struct context *ctx)
{
	struct v4l2_ctrl_handler *h = &ctx->controls;

	v4l2_ctrl_handler_init(h, 12);
	v4l2_ctrl_new_std(h, &control_ops, V4L2_CID_MPEG_VIDEO_BITRATE, 25000, 25000000, 25000, 10000000);
	v4l2_ctrl_new_std_menu(h, &control_ops, V4L2_CID_MPEG_VIDEO_BITRATE_MODE, V4L2_MPEG_VIDEO_BITRATE_MODE_CBR, 0,
			       V4L2_MPEG_VIDEO_BITRATE_MODE_VBR);
	v4l2_ctrl_new_std(h, &control_ops, V4L2_CID_MPEG_VIDEO_GOP_SIZE, 0, 0x7fffffff, 1, 60);
	v4l2_ctrl_new_std(h, &control_ops, V4L2_CID_MPEG_VIDEO_H264_I_PERIOD, 0, 0x7fffffff, 1, 60);
	v4l2_ctrl_new_std(h, &control_ops, V4L2_CID_MPEG_VIDEO_REPEAT_SEQ_HEADER, 0, 1, 1, 0);
	v4l2_ctrl_new_std_menu(h, &control_ops, V4L2_CID_MPEG_VIDEO_HEADER_MODE,
			       V4L2_MPEG_VIDEO_HEADER_MODE_JOINED_WITH_1ST_FRAME,
			       ~BIT(V4L2_MPEG_VIDEO_HEADER_MODE_JOINED_WITH_1ST_FRAME),
			       V4L2_MPEG_VIDEO_HEADER_MODE_JOINED_WITH_1ST_FRAME);
	v4l2_ctrl_new_std_menu(h, &control_ops, V4L2_CID_MPEG_VIDEO_H264_PROFILE, V4L2_MPEG_VIDEO_H264_PROFILE_HIGH,
			       ~(BIT(V4L2_MPEG_VIDEO_H264_PROFILE_BASELINE) |
				 BIT(V4L2_MPEG_VIDEO_H264_PROFILE_CONSTRAINED_BASELINE) |
				 BIT(V4L2_MPEG_VIDEO_H264_PROFILE_MAIN) | BIT(V4L2_MPEG_VIDEO_H264_PROFILE_HIGH)),
			       V4L2_MPEG_VIDEO_H264_PROFILE_HIGH);
	v4l2_ctrl_new_std_menu(h, &control_ops, V4L2_CID_MPEG_VIDEO_H264_LEVEL, V4L2_MPEG_VIDEO_H264_LEVEL_5_1, 0,
			       V4L2_MPEG_VIDEO_H264_LEVEL_4_0);
	v4l2_ctrl_new_std(h, &control_ops, V4L2_CID_MPEG_VIDEO_H264_MIN_QP, 0, 51, 1, 20);
	v4l2_ctrl_new_std(h, &control_ops, V4L2_CID_MPEG_VIDEO_H264_MAX_QP, 0, 51, 1, 51);
	v4l2_ctrl_new_std(h, &control_ops, V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME, 0, 0, 0, 0);
	v4l2_ctrl_new_std(h, &control_ops, V4L2_CID_MIN_BUFFERS_FOR_OUTPUT, 1, 1, 1, 1);
	ctx->fh.ctrl_handler = h;
	return h->error ? h->error : v4l2_ctrl_handler_setup(h);
}

static s32 control_value(struct context *ctx, u32 id)
{
	return v4l2_ctrl_g_ctrl(v4l2_ctrl_find(&ctx->controls, id));
}

static void choose_profile(struct context *ctx)
{
	static const u8 levels[] = { 10, 9, 11, 12, 13, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51 };

	switch (control_value(ctx, V4L2_CID_MPEG_VIDEO_H264_PROFILE)) {
	case V4L2_MPEG_VIDEO_H264_PROFILE_BASELINE:
		ctx->stream.profile_idc = 66;
		ctx->stream.constraints = 0x80;
		break;
	case V4L2_MPEG_VIDEO_H264_PROFILE_CONSTRAINED_BASELINE:
		ctx->stream.profile_idc = 66;
		ctx->stream.constraints = 0xc0;
		break;
	case V4L2_MPEG_VIDEO_H264_PROFILE_MAIN:
		ctx->stream.profile_idc = 77;
		ctx->stream.constraints = 0x40;
		break;
	default:
		ctx->stream.profile_idc = 100;
		ctx->stream.constraints = 0;
	}
	ctx->stream.level_idc = levels[control_value(ctx, V4L2_CID_MPEG_VIDEO_H264_LEVEL)];
	if (profile) {
		ctx->stream.profile_idc = profile;
		ctx->stream.constraints = 0;
	}
	if (level)
		ctx->stream.level_idc = level;
}

/* Encoding */

/* How many macroblocks a picture may carry at the bitrate that is set. */
static u32 budget(const struct context *ctx)
{
	u64 bytes = (u64)ctx->bitrate * ctx->interval.numerator;

	do_div(bytes, 8 * ctx->interval.denominator);
	do_div(bytes, H264_PCM_BYTES);
	return max_t(u32, bytes, LEAST_BLOCKS);
}

static struct h264_picture picture_at(const struct context *ctx, const u8 *bytes)
{
	const struct side *raw = &ctx->raw;
	const u8 *chroma = bytes + raw->bytesperline * ALIGN(raw->height, 16);

	if (raw->fourcc == V4L2_PIX_FMT_NV12)
		return (struct h264_picture){ bytes, { chroma, chroma + 1 }, raw->bytesperline, raw->bytesperline, 2 };
	return (struct h264_picture){ bytes,
				      { chroma, chroma + raw->bytesperline / 2 * ALIGN(raw->height, 16) / 2 },
				      raw->bytesperline,
				      raw->bytesperline / 2,
				      1 };
}

static u32 encode(struct context *ctx, struct vb2_v4l2_buffer *from, struct vb2_v4l2_buffer *to)
{
	struct h264_picture picture = picture_at(ctx, vb2_plane_vaddr(&from->vb2_buf, 0));
	bool is_first = !ctx->made;
	bool is_key = is_first || ctx->is_key_wanted || (ctx->period && ctx->since_key + 1 >= ctx->period);
	static const u8 green;
	u32 length;

	if (ctx->is_key_wanted)
		most_until_key_frame = max(most_until_key_frame, ctx->made - ctx->made_at_wish + 1);
	/* A wish that comes while this picture is encoded is for the next. */
	ctx->is_key_wanted &= !is_key;
	if (shows_green)
		picture = (struct h264_picture){ &green, { &green, &green }, 0, 0, 0 };
	length = h264_write(&ctx->stream, &picture, is_key, is_first || (is_key && ctx->repeats_headers), budget(ctx),
			    vb2_plane_vaddr(&to->vb2_buf, 0), vb2_plane_size(&to->vb2_buf, 0));
	ctx->made++;
	ctx->since_key = is_key ? 0 : ctx->since_key + 1;
	pictures++;
	key_frames += is_key;
	to->flags &= ~(V4L2_BUF_FLAG_KEYFRAME | V4L2_BUF_FLAG_PFRAME);
	to->flags |= is_key ? V4L2_BUF_FLAG_KEYFRAME : V4L2_BUF_FLAG_PFRAME;
	return length;
}

static void work(struct work_struct *item)
{
	struct context *ctx = container_of(to_delayed_work(item), struct context, work);
	struct v4l2_m2m_ctx *m2m = ctx->fh.m2m_ctx;
	struct vb2_v4l2_buffer *from, *to;
	bool fails = fails_after && ctx->made >= fails_after;
	u32 length;

	if (READ_ONCE(ctx->is_aborted)) {
		v4l2_m2m_job_finish(ctx->encoder->m2m_dev, m2m);
		return;
	}
	if (hangs_after && ctx->made >= hangs_after) {
		/* The job stays unfinished; looked at again so that the module can be removed after. */
		schedule_delayed_work(&ctx->work, msecs_to_jiffies(50));
		return;
	}
	from = v4l2_m2m_src_buf_remove(m2m);
	/* The last one of a drain is what its end is told with. */
	if (swallows && ctx->raw.sequence % swallows == swallows - 1 &&
	    !v4l2_m2m_is_last_draining_src_buf(m2m, from)) {
		from->sequence = ctx->raw.sequence++;
		v4l2_m2m_buf_done(from, VB2_BUF_STATE_DONE);
		v4l2_m2m_job_finish(ctx->encoder->m2m_dev, m2m);
		return;
	}
	to = v4l2_m2m_dst_buf_remove(m2m);
	v4l2_m2m_buf_copy_metadata(from, to, true);
	length = fails ? 0 : encode(ctx, from, to);
	vb2_set_plane_payload(&to->vb2_buf, 0, length);
	from->sequence = ctx->raw.sequence++;
	to->sequence = ctx->coded.sequence++;
	if (v4l2_m2m_is_last_draining_src_buf(m2m, from)) {
		to->flags |= V4L2_BUF_FLAG_LAST;
		v4l2_m2m_mark_stopped(m2m);
		v4l2_event_queue_fh(&ctx->fh, &(const struct v4l2_event){ .type = V4L2_EVENT_EOS });
	}
	v4l2_m2m_buf_done(from, length ? VB2_BUF_STATE_DONE : VB2_BUF_STATE_ERROR);
	v4l2_m2m_buf_done(to, length ? VB2_BUF_STATE_DONE : VB2_BUF_STATE_ERROR);
	if (fails) {
		vb2_queue_error(v4l2_m2m_get_src_vq(m2m));
		vb2_queue_error(v4l2_m2m_get_dst_vq(m2m));
	}
	v4l2_m2m_job_finish(ctx->encoder->m2m_dev, m2m);
}

static void device_run(void *priv)
{
	struct context *ctx = priv;

	schedule_delayed_work(&ctx->work, 0);
}

static void job_abort(void *priv)
{
	struct context *ctx = priv;

	/* A job that hangs would keep its user from closing the device for ever. It is ended by work() alone. */
	WRITE_ONCE(ctx->is_aborted, true);
	mod_delayed_work(system_wq, &ctx->work, 0);
}

static const struct v4l2_m2m_ops m2m_ops = { .device_run = device_run, .job_abort = job_abort };

/* Queues */

static int queue_setup(struct vb2_queue *q, unsigned int *buffers, unsigned int *planes, unsigned int sizes[],
		       struct device *alloc_devs[])
{
	struct side *side = side_of(vb2_get_drv_priv(q), q->type);

	if (*planes)
		return *planes == 1 && sizes[0] >= side->sizeimage ? 0 : -EINVAL;
	*planes = 1;
	sizes[0] = side->sizeimage;
	return 0;
}

static int buf_out_validate(struct vb2_buffer *vb)
{
	to_vb2_v4l2_buffer(vb)->field = V4L2_FIELD_NONE;
	return 0;
}

static int buf_prepare(struct vb2_buffer *vb)
{
	struct side *side = side_of(vb2_get_drv_priv(vb->vb2_queue), vb->type);

	if (vb2_plane_size(vb, 0) < side->sizeimage)
		return -EINVAL;
	return 0;
}

static void buf_queue(struct vb2_buffer *vb)
{
	struct vb2_v4l2_buffer *buffer = to_vb2_v4l2_buffer(vb);
	struct context *ctx = vb2_get_drv_priv(vb->vb2_queue);
	struct v4l2_m2m_ctx *m2m = ctx->fh.m2m_ctx;

	if (V4L2_TYPE_IS_CAPTURE(vb->type) && vb2_is_streaming(vb->vb2_queue) && v4l2_m2m_dst_buf_is_last(m2m)) {
		/* Waited for by who drains. */
		buffer->sequence = ctx->coded.sequence++;
		v4l2_m2m_last_buffer_done(m2m, buffer);
		v4l2_event_queue_fh(&ctx->fh, &(const struct v4l2_event){ .type = V4L2_EVENT_EOS });
		return;
	}
	v4l2_m2m_buf_queue(m2m, buffer);
}

static void give_back(struct vb2_queue *q, enum vb2_buffer_state state)
{
	struct context *ctx = vb2_get_drv_priv(q);
	struct v4l2_m2m_ctx *m2m = ctx->fh.m2m_ctx;
	struct vb2_v4l2_buffer *buffer;

	do {
		buffer = V4L2_TYPE_IS_OUTPUT(q->type) ? v4l2_m2m_src_buf_remove(m2m) : v4l2_m2m_dst_buf_remove(m2m);
		if (buffer)
			v4l2_m2m_buf_done(buffer, state);
	} while (buffer);
}

static void forget_stream(struct context *ctx)
{
	vfree(ctx->stream.shown);
	vfree(ctx->stream.marks);
	ctx->stream.shown = NULL;
	ctx->stream.marks = NULL;
}

static int start_streaming(struct vb2_queue *q, unsigned int count)
{
	struct context *ctx = vb2_get_drv_priv(q);
	struct side *side = side_of(ctx, q->type);

	while (hangs_at_start && !signal_pending(current))
		msleep_interruptible(50);
	if (refuses_start || hangs_at_start) {
		give_back(q, VB2_BUF_STATE_QUEUED);
		return -EIO;
	}
	v4l2_m2m_update_start_streaming_state(ctx->fh.m2m_ctx, q);
	WRITE_ONCE(ctx->is_aborted, false);
	side->sequence = 0;
	if (V4L2_TYPE_IS_OUTPUT(q->type)) {
		forget_stream(ctx);
		ctx->stream = (struct h264_stream){ .width = ctx->crop.width, .height = ctx->crop.height };
		choose_profile(ctx);
		ctx->stream.shown = vzalloc(h264_blocks(&ctx->stream) * H264_PCM_BYTES);
		ctx->stream.marks = vzalloc(h264_blocks(&ctx->stream));
		if (!ctx->stream.shown || !ctx->stream.marks) {
			forget_stream(ctx);
			give_back(q, VB2_BUF_STATE_QUEUED);
			return -ENOMEM;
		}
		ctx->made = 0;
		ctx->since_key = 0;
		ctx->is_key_wanted = false;
		ctx->made_at_wish = 0;
	}
	return 0;
}

static void stop_streaming(struct vb2_queue *q)
{
	struct context *ctx = vb2_get_drv_priv(q);

	cancel_delayed_work_sync(&ctx->work);
	v4l2_m2m_update_stop_streaming_state(ctx->fh.m2m_ctx, q);
	give_back(q, VB2_BUF_STATE_ERROR);
	if (V4L2_TYPE_IS_OUTPUT(q->type) && v4l2_m2m_has_stopped(ctx->fh.m2m_ctx))
		v4l2_event_queue_fh(&ctx->fh, &(const struct v4l2_event){ .type = V4L2_EVENT_EOS });
}

static const struct vb2_ops queue_ops = {
	.queue_setup = queue_setup,
	.buf_out_validate = buf_out_validate,
	.buf_prepare = buf_prepare,
	.buf_queue = buf_queue,
	.start_streaming = start_streaming,
	.stop_streaming = stop_streaming,
	.wait_prepare = vb2_ops_wait_prepare,
	.wait_finish = vb2_ops_wait_finish,
};

static int init_queue(struct context *ctx, struct vb2_queue *q, u32 type)
{
	q->type = type;
	q->io_modes = VB2_MMAP | VB2_DMABUF;
	q->drv_priv = ctx;
	q->ops = &queue_ops;
	q->mem_ops = &vb2_vmalloc_memops;
	q->buf_struct_size = sizeof(struct v4l2_m2m_buffer);
	q->timestamp_flags = V4L2_BUF_FLAG_TIMESTAMP_COPY;
	q->lock = &ctx->encoder->lock;
	q->dev = &ctx->encoder->pdev->dev;
	return vb2_queue_init(q);
}

static int init_queues(void *priv, struct vb2_queue *src, struct vb2_queue *dst)
{
	int failed = init_queue(priv, src, V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE);

	return failed ? failed : init_queue(priv, dst, V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE);
}

/* The file */

static int open(struct file *file)
{
	struct encoder *encoder = video_drvdata(file);
	struct context *ctx = kzalloc(sizeof(*ctx), GFP_KERNEL);
	int failed;

	if (!ctx)
		return -ENOMEM;
	ctx->encoder = encoder;
	INIT_DELAYED_WORK(&ctx->work, work);
	v4l2_fh_init(&ctx->fh, &encoder->vfd);
	file->private_data = &ctx->fh;
	ctx->interval = (struct v4l2_fract){ 1, 30 };
	ctx->colorspace = V4L2_COLORSPACE_REC709;
	ctx->raw = (struct side){ .fourcc = V4L2_PIX_FMT_YUV420, .width = 640, .height = 480 };
	ctx->coded.fourcc = V4L2_PIX_FMT_H264;
	ctx->crop = (struct v4l2_rect){ 0, 0, 640, 480 };
	lay_out(&ctx->raw);
	lay_out_coded(ctx);
	failed = add_controls(ctx);
	if (failed)
		goto controls;
	ctx->fh.m2m_ctx = v4l2_m2m_ctx_init(encoder->m2m_dev, ctx, init_queues);
	if (IS_ERR(ctx->fh.m2m_ctx)) {
		failed = PTR_ERR(ctx->fh.m2m_ctx);
		goto controls;
	}
	v4l2_fh_add(&ctx->fh);
	return 0;
controls:
	v4l2_ctrl_handler_free(&ctx->controls);
	v4l2_fh_exit(&ctx->fh);
	kfree(ctx);
	return failed;
}

static int release(struct file *file)
{
	struct context *ctx = context_of(file);

	mutex_lock(&ctx->encoder->lock);
	v4l2_m2m_ctx_release(ctx->fh.m2m_ctx);
	mutex_unlock(&ctx->encoder->lock);
	forget_stream(ctx);
	v4l2_fh_del(&ctx->fh);
	v4l2_fh_exit(&ctx->fh);
	v4l2_ctrl_handler_free(&ctx->controls);
	kfree(ctx);
	return 0;
}

static const struct v4l2_file_operations file_ops = {
	.owner = THIS_MODULE,
	.open = open,
	.release = release,
	.poll = v4l2_m2m_fop_poll,
	.mmap = v4l2_m2m_fop_mmap,
	.unlocked_ioctl = video_ioctl2,
};

/* The module */

static struct encoder *the_encoder;

static int __init start(void)
{
	struct encoder *encoder = kzalloc(sizeof(*encoder), GFP_KERNEL);
	int failed;

	if (!encoder)
		return -ENOMEM;
	mutex_init(&encoder->lock);
	encoder->pdev = platform_device_register_simple(NAME, PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(encoder->pdev)) {
		failed = PTR_ERR(encoder->pdev);
		goto device;
	}
	/* Else it is taken from the driver, of which this device has none. */
	strscpy(encoder->v4l2_dev.name, NAME, sizeof(encoder->v4l2_dev.name));
	failed = v4l2_device_register(&encoder->pdev->dev, &encoder->v4l2_dev);
	if (failed)
		goto v4l2;
	encoder->m2m_dev = v4l2_m2m_init(&m2m_ops);
	if (IS_ERR(encoder->m2m_dev)) {
		failed = PTR_ERR(encoder->m2m_dev);
		goto m2m;
	}
	strscpy(encoder->vfd.name, NAME, sizeof(encoder->vfd.name));
	encoder->vfd.fops = &file_ops;
	encoder->vfd.ioctl_ops = &ioctls;
	encoder->vfd.lock = &encoder->lock;
	encoder->vfd.v4l2_dev = &encoder->v4l2_dev;
	encoder->vfd.vfl_dir = VFL_DIR_M2M;
	encoder->vfd.release = video_device_release_empty;
	encoder->vfd.device_caps = V4L2_CAP_VIDEO_M2M_MPLANE | V4L2_CAP_STREAMING;
	video_set_drvdata(&encoder->vfd, encoder);
	/* The number that bcm2835-codec's encoder has on a Raspberry Pi, where it is free. */
	failed = video_register_device(&encoder->vfd, VFL_TYPE_VIDEO, 11);
	if (failed)
		goto node;
	the_encoder = encoder;
	return 0;
node:
	v4l2_m2m_release(encoder->m2m_dev);
m2m:
	v4l2_device_unregister(&encoder->v4l2_dev);
v4l2:
	platform_device_unregister(encoder->pdev);
device:
	kfree(encoder);
	return failed;
}

static void __exit end(void)
{
	video_unregister_device(&the_encoder->vfd);
	v4l2_m2m_release(the_encoder->m2m_dev);
	v4l2_device_unregister(&the_encoder->v4l2_dev);
	platform_device_unregister(the_encoder->pdev);
	kfree(the_encoder);
}

module_init(start);
module_exit(end);

MODULE_DESCRIPTION("H.264 encoder of a virtual board");
MODULE_LICENSE("Dual MIT/GPL");
